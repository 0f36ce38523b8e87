#include "quire/cache/policy.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <cmath>

#include "quire/base/error.h"
#include "tests/support/message_of.h"

namespace quire::cache {
namespace {

using testing::ElementsAre;
using testing::HasSubstr;
using testing::IsEmpty;
using Scores = std::vector<float>;

TEST(Budget, is_a_number_of_tokens_or_a_share_of_the_context_and_never_more_than_there_is) {
  EXPECT_EQ((Budget{.tokens = 100}).of(1000), 100);
  EXPECT_EQ((Budget{.tokens = 100}).of(99), 99);
  EXPECT_EQ((Budget{.tokens = 0}).of(99), 0);
  EXPECT_EQ((Budget{.fraction = 0.1}).of(99), 9);
  EXPECT_EQ((Budget{.fraction = 1}).of(99), 99);
  EXPECT_EQ(Budget{}.of(7), 7);
  for (const double fraction : {0.0, -0.1, 1.01, std::nan("")}) {
    EXPECT_THAT(test::message_of<ArgumentError>(
                    [&] { static_cast<void>(Budget{.fraction = fraction}.of(10)); }),
                HasSubstr("it must be over 0 and at most 1"));
  }
}

TEST(BestPositions, are_the_ends_and_the_highest_between_in_order_of_position) {
  const Scores score{0, 9, 5, 7, 7, 1, 8, 0};
  EXPECT_THAT(best_positions(score, 3, 0, 0), ElementsAre(1, 3, 6));
  EXPECT_THAT(best_positions(score, 3, 1, 1), ElementsAre(0, 1, 7));
  EXPECT_THAT(best_positions(score, 5, 1, 1), ElementsAre(0, 1, 3, 6, 7));  // of two 7s the first
  EXPECT_THAT(best_positions(score, 3, 2, 4), ElementsAre(0, 1, 7));        // no more than asked
  EXPECT_THAT(best_positions(score, 99, 1, 1), ElementsAre(0, 1, 2, 3, 4, 5, 6, 7));
  EXPECT_THAT(best_positions(score, 0, 1, 1), IsEmpty());
  EXPECT_THAT(best_positions({}, 4, 1, 1), IsEmpty());
}

TEST(BestPositions, take_what_is_not_a_number_last) {
  const Scores score{NAN, 1, -INFINITY, 2, NAN};
  EXPECT_THAT(best_positions(score, 2, 0, 0), ElementsAre(1, 3));
  EXPECT_THAT(best_positions(score, 4, 0, 0), ElementsAre(0, 1, 2, 3));
}

TEST(BestPages, are_whole_and_the_last_one_is_always_among_them) {
  const Scores score{1, 0, 5, 0, 3, 0, 0};  // pages of 2: scores 1, 5, 3, and one key with 0
  EXPECT_THAT(best_pages(score, 2, 1), ElementsAre(6));
  EXPECT_THAT(best_pages(score, 2, 2), ElementsAre(2, 3, 6));
  EXPECT_THAT(best_pages(score, 2, 3), ElementsAre(2, 3, 4, 5, 6));
  EXPECT_THAT(best_pages(score, 2, 9), ElementsAre(0, 1, 2, 3, 4, 5, 6));
  EXPECT_THAT(best_pages({}, 2, 3), IsEmpty());
}

TEST(Observe, covers_what_asks_for_no_more) {
  const Observe all{.reading_mass = true, .window = 64, .moments = true, .moments_from = 4};
  EXPECT_TRUE(all.covers({}));
  EXPECT_TRUE(all.covers({.query_mass = true}));  // seen at the step itself
  EXPECT_TRUE(all.covers({.reading_mass = true, .window = 3}));
  EXPECT_TRUE(all.covers({.moments = true, .moments_from = 4}));
  EXPECT_FALSE(all.covers({.moments = true, .moments_from = 0}));
  EXPECT_FALSE(all.covers({.window = 65}));
  EXPECT_FALSE(Observe{}.covers({.reading_mass = true}));
  EXPECT_FALSE(Observe{}.covers({.moments = true}));
}

/// The least that a policy must be.
class Least : public Policy {
 public:
  std::string_view name() const override { return "least"; }
  void score(const HeadContext& /*head*/, std::span<float> score_S) const override {
    for (std::size_t i = 0; i < score_S.size(); ++i) score_S[i] = i == 3 ? 1.0f : 0.0f;
  }
  std::int64_t sinks() const override { return 1; }
  std::int64_t recent() const override { return 2; }
};

TEST(Policy, has_defaults_for_all_but_a_name_and_scores) {
  const Least policy;
  const LayerSpec spec{6, 2, 16, 16, {}};
  const HeadContext head{.spec = &spec, .tokens = 8, .budget = 4};
  EXPECT_EQ(head.group(), 3);
  Scores score(8);
  policy.score(head, score);
  EXPECT_THAT(policy.select(head, score), ElementsAre(0, 3, 6, 7));
  EXPECT_EQ(policy.floor_tokens(), 4);
  EXPECT_EQ(policy.decide(), Decide::kOnce);
  EXPECT_FALSE(policy.is_dense(0));
  EXPECT_EQ(policy.index_bytes(0), 0);
  EXPECT_EQ(policy.index_bytes_read(0), 0);
  std::vector<std::int32_t> selected{0, 3};
  Scores bias(2);
  EXPECT_FALSE(policy.bias(head, selected, bias));
}

}  // namespace
}  // namespace quire::cache

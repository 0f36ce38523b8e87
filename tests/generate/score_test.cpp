#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <cmath>

#include "quire/base/error.h"
#include "quire/base/thread_pool.h"
#include "quire/generate/session.h"
#include "tests/generate/fake_model.h"

namespace quire::generate {
namespace {

using test::FakeCache;
using test::FakeModel;
using testing::Each;
using testing::ElementsAre;
using testing::HasSubstr;
using testing::Le;
using testing::ThrowsMessage;

using Ids = std::vector<std::int32_t>;
constexpr std::int64_t V = 37;

std::vector<float> logits_after(std::span<const std::int32_t> ids) {
  std::vector<float> out(V);
  double phase = 0;
  for (const std::int32_t id : ids) phase = 0.7 * phase + id;
  for (std::size_t v = 0; v < V; ++v)
    out[v] = static_cast<float>(20 * std::sin(phase + static_cast<double>(v * v)));
  return out;
}

Ids some_ids(std::size_t count) {
  Ids out(count);
  for (std::size_t i = 0; i < count; ++i) out[i] = static_cast<std::int32_t>((i * i + 3 * i) % V);
  return out;
}

double naive_nll(std::span<const std::int32_t> before, std::int32_t target) {
  const std::vector<float> logits = logits_after(before);
  double sum = 0;
  for (const float logit : logits) sum += std::exp(double{logit});
  return std::log(sum) - double{logits[static_cast<std::size_t>(target)]};
}

Score score_all(const FakeModel& model, const Ids& ids, std::vector<std::int64_t> at = {},
                std::int64_t chunk = 256, const Progress& progress = {}) {
  FakeCache cache(static_cast<std::int64_t>(ids.size()));
  return score(model, ids, cache, at, chunk, progress);
}

TEST(Score, IsTheNaiveOneForEveryToken) {
  const FakeModel model(V, logits_after);
  const Ids ids = some_ids(600);
  const Score result = score_all(model, ids);
  ASSERT_EQ(result.nll.size(), 599u);
  double sum = 0;
  for (std::size_t i = 0; i < 599; ++i) {
    const double expected = naive_nll(std::span(ids).first(i + 1), ids[i + 1]);
    ASSERT_NEAR(result.nll[i], expected, 1e-12 * (1 + expected)) << i;
    sum += expected;
  }
  EXPECT_NEAR(result.nll_mean, sum / 599, 1e-11);
  EXPECT_NEAR(result.perplexity, std::exp(result.nll_mean), 1e-9 * result.perplexity);
  EXPECT_THAT(result.logits_PV.shape(), ElementsAre(0, V));
}

TEST(Score, KeepsTheLogitsAskedFor) {
  const FakeModel model(V, logits_after);
  const Ids ids = some_ids(300);
  for (const std::int64_t chunk : {1, 7, 64, 65, 256}) {
    const Score result = score_all(model, ids, {0, 63, 64, 255, 256, 299}, chunk);
    ASSERT_THAT(result.logits_PV.shape(), ElementsAre(6, V));
    const float* row = result.logits_PV.data<float>();
    for (const std::size_t position : {0u, 63u, 64u, 255u, 256u, 299u}) {
      const std::vector<float> expected = logits_after(std::span(ids).first(position + 1));
      for (std::size_t v = 0; v < V; ++v) ASSERT_EQ(row[v], expected[v]) << position;
      row += V;
    }
  }
}

TEST(Score, DependsNeitherOnChunksNorOnThreads) {
  const FakeModel model(V, logits_after);
  const Ids ids = some_ids(400);
  set_threads(1);
  const Score one = score_all(model, ids);
  for (const std::int64_t chunk : {1, 7, 100})
    EXPECT_EQ(score_all(model, ids, {}, chunk).nll, one.nll);
  for (const int threads : {2, 7}) {
    set_threads(threads);
    EXPECT_EQ(score_all(model, ids).nll, one.nll);
  }
  set_threads(1);
}

TEST(Score, HoldsFewLogitsAtOnce) {
  const FakeModel model(V, logits_after);
  (void)score_all(model, some_ids(257));
  EXPECT_THAT(model.calls, ElementsAre(256, 1));
  EXPECT_THAT(model.rows_of_logits, Each(Le(64)));
  EXPECT_EQ(model.rows_of_logits.size(), 4u) << "nothing follows the last token";
  (void)score_all(model, some_ids(257), {256});
  EXPECT_EQ(model.rows_of_logits.size(), 9u);
}

TEST(Score, OneTokenHasNothingToCompare) {
  const FakeModel model(V, logits_after);
  const Score result = score_all(model, {5}, {0});
  EXPECT_TRUE(result.nll.empty());
  EXPECT_TRUE(std::isnan(result.nll_mean));
  EXPECT_TRUE(std::isnan(result.perplexity));
  EXPECT_THAT(result.logits_PV.shape(), ElementsAre(1, V));
}

TEST(Score, HugeLogitsDoNotOverflow) {
  const FakeModel model(2, [](std::span<const std::int32_t>) {
    return std::vector<float>{3e38f, -3e38f};
  });
  const Score result = score_all(model, {0, 0, 1});
  EXPECT_EQ(result.nll[0], 0);
  EXPECT_NEAR(result.nll[1] / 6e38, 1, 1e-6);
}

TEST(Score, StopsWhenAsked) {
  const FakeModel model(V, logits_after);
  std::vector<std::int64_t> done;
  const Score result = score_all(model, some_ids(100), {3, 90}, 10, [&](std::int64_t n) {
    done.push_back(n);
    return n < 30;
  });
  EXPECT_THAT(done, ElementsAre(10, 20, 30));
  EXPECT_EQ(result.nll.size(), 30u);
  EXPECT_THAT(result.logits_PV.shape(), ElementsAre(1, V));
}

TEST(Score, Errors) {
  const FakeModel model(V, logits_after);
  EXPECT_THROW((void)score_all(model, {}), ArgumentError);
  EXPECT_THROW((void)score_all(model, {1, 2}, {}, 0), ArgumentError);
  EXPECT_THAT(
      [&] {
        (void)score_all(model, {1, 2}, {2});
      },
      ThrowsMessage<ArgumentError>("at: position 2 of 2 tokens"));
  EXPECT_THROW((void)score_all(model, {1, 2}, {-1}), ArgumentError);
  EXPECT_THROW((void)score_all(model, {1, 2}, {1, 0}), ArgumentError);
  EXPECT_THROW((void)score_all(model, {1, 2}, {1, 1}), ArgumentError);
  EXPECT_THROW((void)score_all(model, {1, V}), ArgumentError);
  FakeCache small(1), used(5);
  used.ids = {1};
  EXPECT_THAT(
      [&] {
        (void)score(model, Ids{1, 2}, small, {});
      },
      ThrowsMessage<ArgumentError>(HasSubstr("the prompt has 2 tokens, but the context holds 1")));
  EXPECT_THROW((void)score(model, Ids{1, 2}, used, {}), ArgumentError);
}

}  // namespace
}  // namespace quire::generate

#include "quire/eval/compare.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <cmath>

#include "quire/base/error.h"
#include "quire/base/thread_pool.h"
#include "tests/eval/tiny.h"

namespace quire::eval {
namespace {

using testing::Each;
using testing::ElementsAre;

class Compared : public testing::Test {
 protected:
  std::unique_ptr<model::Model> model = test::tiny_llama();
  std::vector<std::int32_t> ids = test::random_ids(150, 320);
  Reading reading = *read_text(*model, ids, 40, DType::kF32, 0);  // a document of 109 tokens

  Comparison of(const Candidate& candidate) const { return *compare(*model, reading, candidate); }
};

TEST_F(Compared, TheFullCacheDiffersInNothingAtAll) {
  for (const Candidate& candidate : {test::contiguous(*model), test::policy(*model, "full", 1000),
                                     test::policy(*model, "window", 109)}) {
    const Comparison full = of(candidate);
    EXPECT_THAT(full.kl, Each(0.0)) << candidate.cache;
    EXPECT_EQ(full.nll, full.nll_full) << candidate.cache;
    EXPECT_THAT(full.same_top, Each(1)) << candidate.cache;
    EXPECT_EQ(full.mass, 1) << candidate.cache;
    EXPECT_GT(full.seconds, 0);
  }
}

TEST_F(Compared, NllIsThatOfTheTokenThatCame) {
  const Comparison full = of(test::contiguous(*model));
  const auto cache = model->make_cache(150, DType::kF32);
  const Tensor logits_NV = model->logits(model->forward(ids, *cache));
  const std::int64_t V = logits_NV.size(1);
  for (std::size_t i = 0; i < full.nll.size(); ++i) {
    const std::size_t at = 109 + i;
    const std::span<const float> row{logits_NV.data<float>() + static_cast<std::int64_t>(at) * V,
                                     static_cast<std::size_t>(V)};
    EXPECT_EQ(full.nll[i], divergence(row, row, ids[at + 1]).nll) << i;
  }
}

TEST_F(Compared, BothLedgersCountWhatIsThere) {
  // f32: 2 layers · 2 key heads · (16 + 16) numbers of 4 bytes.
  const std::int64_t token = 2 * 2 * 32 * 4;
  const Comparison full = of(test::contiguous(*model));
  EXPECT_EQ(full.bytes_stored, 149 * token);
  EXPECT_EQ(full.bytes_read, (110 + 149) / 2.0 * static_cast<double>(token))
      << "each step reads the document and what came since";
  const Comparison window = of(test::policy(*model, "window", 20));
  EXPECT_EQ(window.bytes_stored, (20 + 40) * token);
  EXPECT_EQ(window.bytes_read, (21 + 60) / 2.0 * static_cast<double>(token));
  const Comparison oracle = of(test::policy(*model, "oracle", 20));
  EXPECT_EQ(oracle.bytes_stored, 149 * token) << "selection keeps all";
  EXPECT_EQ(oracle.bytes_read, window.bytes_read);
}

TEST_F(Compared, ALostKeyIsSeen) {
  const Comparison window = of(test::policy(*model, "window", 8));
  const Comparison wider = of(test::policy(*model, "window", 80));
  EXPECT_GT(mean(window.kl), 0);
  EXPECT_GT(mean(window.kl), mean(wider.kl));
}

TEST_F(Compared, RepeatsAndStops) {
  const Candidate candidate = test::policy(*model, "quest", 64);
  const Comparison a = of(candidate);
  set_threads(1);
  const Comparison b = of(candidate);
  set_threads(2);
  EXPECT_EQ(a.kl, b.kl);
  EXPECT_EQ(a.nll, b.nll);
  EXPECT_FALSE(compare(*model, reading, candidate, [](std::int64_t done) {
                 return done < 109;
               }).has_value());
  EXPECT_FALSE(compare(*model, reading, candidate, [](std::int64_t done) {
                 return done < 149;
               }).has_value());
}

TEST_F(Compared, SeveralInLockstepGiveWhatEachGivesAlone) {
  const std::vector<Candidate> candidates{test::contiguous(*model),
                                          test::policy(*model, "window", 20),
                                          test::policy(*model, "oracle", 20)};
  std::vector<std::unique_ptr<cache::KvCache>> owned;
  std::vector<cache::KvCache*> caches;
  for (const Candidate& candidate : candidates) {
    owned.push_back(candidate.make(109, 149));
    model->forward(std::span(ids).first(109), *owned.back());
    owned.back()->end_reading();
    caches.push_back(owned.back().get());
  }
  for (int round = 0; round < 2; ++round) {  // the second begins where the first ended
    const auto together = *compare(*model, reading, caches);
    ASSERT_EQ(together.size(), 3u);
    for (std::size_t c = 0; c < 3; ++c) {
      const Comparison alone = of(candidates[c]);
      EXPECT_EQ(together[c].kl, alone.kl) << candidates[c].cache;
      EXPECT_EQ(together[c].nll, alone.nll);
      EXPECT_EQ(together[c].bytes_read, alone.bytes_read);
      EXPECT_EQ(together[c].bytes_stored, alone.bytes_stored);
      EXPECT_EQ(together[c].timed, 16);
      EXPECT_EQ(alone.timed, 40);
      EXPECT_EQ(caches[c]->length(), 109);
    }
  }
  EXPECT_FALSE(
      compare(*model, reading, caches, [](std::int64_t done) { return done < 40; }).has_value());
}

TEST(Summarise, ByHand) {
  Comparison c;
  c.kl = {0, 1, 2, 9};
  c.nll_full = {1, 1, 1, 1};
  c.nll = {1, 2, 1, 4};
  c.same_top = {1, 0, 1, 0};
  c.bytes_read = 12.5;
  c.bytes_stored = 70;
  c.seconds = 2;
  c.timed = 4;
  const Row row = summarise({"mine", "5%", {}}, c, {1, 3});
  EXPECT_EQ(row.cache, "mine");
  EXPECT_EQ(row.budget, "5%");
  EXPECT_EQ(row.kl_mean, 3);
  EXPECT_EQ(row.kl_median, 1.5);
  EXPECT_NEAR(row.kl_p99, 8.79, 1e-12);
  EXPECT_LE(row.kl_interval.low, 3);
  EXPECT_GE(row.kl_interval.high, 3);
  EXPECT_EQ(row.top1, 0.5);
  EXPECT_EQ(row.dnll, 1);
  EXPECT_EQ(row.dnll_far, 2);
  EXPECT_EQ(row.tok_s, 2);
  EXPECT_EQ(row.bytes_read, 12.5);
  EXPECT_EQ(row.bytes_stored, 70);
  EXPECT_THROW(summarise({"mine", "", {}}, c, {4}), ArgumentError);
  EXPECT_TRUE(std::isnan(summarise({"mine", "", {}}, c, {}).dnll_far));
}

TEST(FarPositions, AreTheTenthWhereAWindowLosesMost) {
  Comparison window;
  window.nll_full.assign(20, 1.0);
  window.nll.assign(20, 1.0);
  window.nll[7] = 5;
  window.nll[12] = 3;
  window.nll[3] = 0;
  EXPECT_THAT(far_positions(window), ElementsAre(7u, 12u));
}

}  // namespace
}  // namespace quire::eval

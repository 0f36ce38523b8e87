#include "quire/ops/sample/sample.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <cmath>
#include <limits>
#include <vector>

#include "quire/base/error.h"
#include "tests/reference/sample.h"

namespace quire {
namespace {

using testing::HasSubstr;
using testing::ThrowsMessage;

constexpr float kInfinity = std::numeric_limits<float>::infinity();

std::int32_t greedy(std::vector<float> logits, const SampleSpec& spec = {},
                    std::vector<std::int32_t> recent = {}) {
  Rng rng(1);
  return sample(logits, spec, recent, rng);
}

std::vector<float> random_logits(std::size_t V, std::uint64_t seed) {
  Rng rng(seed);
  std::vector<float> out(V);
  for (float& x : out) x = 3 * rng.normal();
  return out;
}

/// How often each id comes in `draws` draws.
std::vector<int> counts(const std::vector<float>& logits, const SampleSpec& spec, int draws,
                        std::uint64_t seed) {
  Rng rng(seed);
  std::vector<int> out(logits.size());
  for (int i = 0; i < draws; ++i) ++out[static_cast<std::size_t>(sample(logits, spec, {}, rng))];
  return out;
}

TEST(Greedy, TakesTheLargestAndOfEqualsTheLowestId) {
  EXPECT_EQ(greedy({1, 3, 2}), 1);
  EXPECT_EQ(greedy({1, 3, 3}), 1);
  EXPECT_EQ(greedy({-5}), 0);
  EXPECT_EQ(greedy({0.0f, -0.0f}), 0);
  EXPECT_EQ(greedy({-0.0f, 0.0f}), 0);
  EXPECT_EQ(greedy({-kInfinity, -3e38f, -kInfinity}), 1);
  for (const std::size_t V : {1u, 15u, 16u, 17u, 31u, 33u, 1000u}) {
    for (std::size_t best = 0; best < V; best += 1 + V / 40) {
      std::vector<float> logits(V, -1.0f);
      logits[best] = 1;
      ASSERT_EQ(greedy(logits), static_cast<std::int32_t>(best));
    }
  }
}

TEST(Greedy, FiltersChangeNothingAndNoNumberIsDrawn) {
  Rng used(5), fresh(5);
  const std::vector<float> logits = {1, 3, 2};
  EXPECT_EQ(sample(logits, {.top_k = 1, .top_p = 0.1, .min_p = 1}, {}, used), 1);
  EXPECT_EQ(used.next_u64(), fresh.next_u64());
}

TEST(Sample, TakesOneNumberADraw) {
  Rng used(5), fresh(5);
  (void)sample(std::vector<float>{1, 3, 2}, {.temperature = 1}, {}, used);
  (void)fresh.uniform();
  EXPECT_EQ(used.next_u64(), fresh.next_u64());
}

TEST(Penalty, DividesPositiveAndMultipliesNegativeOnce) {
  EXPECT_EQ(greedy({4, 3}, {.repeat_penalty = 1.3}, {0}), 0);
  EXPECT_EQ(greedy({4, 3}, {.repeat_penalty = 1.4}, {0}), 1);
  EXPECT_EQ(greedy({4, 3}, {.repeat_penalty = 1.3}, {0, 0, 0}), 0)
      << "once, however often it occurs";
  EXPECT_EQ(greedy({-1, -1.2f}, {.repeat_penalty = 1.1}, {0}), 0);
  EXPECT_EQ(greedy({-1, -1.2f}, {.repeat_penalty = 1.3}, {0}), 1);
  EXPECT_EQ(greedy({3, 4}, {.repeat_penalty = 0.5}, {0}), 0) << "below 1 it is a reward";
  EXPECT_EQ(greedy({4, 3}, {.repeat_penalty = 1}, {0}), 0);
}

TEST(Penalty, LeavesTheLogitsAlone) {
  Rng rng(1);
  const std::vector<float> logits = {4, 3};
  const std::vector<std::int32_t> recent = {0};
  EXPECT_EQ(sample(logits, {.repeat_penalty = 10}, recent, rng), 1);
  EXPECT_EQ(sample(logits, {}, {}, rng), 0);
}

TEST(Sample, DrawsByProbability) {
  // Probabilities 0.1, 0.2, 0.7 at temperature 1.
  const std::vector<float> logits = {std::log(0.1f), std::log(0.2f), std::log(0.7f)};
  constexpr int kDraws = 40000;
  const std::vector<int> seen = counts(logits, {.temperature = 1}, kDraws, 3);
  const double expected[] = {0.1, 0.2, 0.7};
  for (std::size_t i = 0; i < 3; ++i) {
    EXPECT_NEAR(seen[i], expected[i] * kDraws,
                5 * std::sqrt(kDraws * expected[i] * (1 - expected[i])));
  }
}

TEST(Sample, TemperatureIsAnExponent) {
  // At temperature 0.5 probabilities are squared: 1, 4, 49 of 54.
  const std::vector<float> logits = {std::log(0.1f), std::log(0.2f), std::log(0.7f)};
  constexpr int kDraws = 40000;
  const std::vector<int> seen = counts(logits, {.temperature = 0.5}, kDraws, 4);
  const double expected[] = {1.0 / 54, 4.0 / 54, 49.0 / 54};
  for (std::size_t i = 0; i < 3; ++i) {
    EXPECT_NEAR(seen[i], expected[i] * kDraws,
                5 * std::sqrt(kDraws * expected[i] * (1 - expected[i])));
  }
}

TEST(Sample, TheLeastTemperatureIsNearlyGreedy) {
  const std::vector<int> seen = counts({1, 1.0001f, 0}, {.temperature = 1e-300}, 100, 5);
  EXPECT_EQ(seen[1], 100);
}

TEST(TopK, KeepsTheLikeliestAndOfEqualsTheLowestIds) {
  const std::vector<int> seen = counts({2, 3, 2, 2, 1}, {.temperature = 10, .top_k = 3}, 2000, 6);
  EXPECT_GT(seen[0], 0);
  EXPECT_GT(seen[1], 0);
  EXPECT_GT(seen[2], 0);
  EXPECT_EQ(seen[3], 0);
  EXPECT_EQ(seen[4], 0);
  EXPECT_EQ(counts({2, 3, 2}, {.temperature = 10, .top_k = 1}, 100, 7)[1], 100);
  EXPECT_GT(counts({2, 3, 2}, {.temperature = 10, .top_k = 99}, 1000, 7)[2], 0);
}

TEST(TopP, KeepsTheFewestThatHoldTheMass) {
  const std::vector<float> logits = {std::log(0.2f), std::log(0.5f), std::log(0.25f),
                                     std::log(0.05f)};
  const auto kept = [&](double top_p) {
    const std::vector<int> seen = counts(logits, {.temperature = 1, .top_p = top_p}, 3000, 8);
    return std::vector<bool>{seen[0] > 0, seen[1] > 0, seen[2] > 0, seen[3] > 0};
  };
  EXPECT_EQ(kept(1e-9), (std::vector<bool>{false, true, false, false})) << "at least one";
  EXPECT_EQ(kept(0.49), (std::vector<bool>{false, true, false, false}));
  EXPECT_EQ(kept(0.51), (std::vector<bool>{false, true, true, false}));
  EXPECT_EQ(kept(0.76), (std::vector<bool>{true, true, true, false}));
  EXPECT_EQ(kept(0.96), (std::vector<bool>{true, true, true, true}));
}

TEST(TopP, SeesWhatTopKLeft) {
  // Of 0.4, 0.3, 0.3 the first two are 4/7 and 3/7: a top-p of 0.5 is then held by the first alone.
  const std::vector<float> logits = {std::log(0.4f), std::log(0.3f), std::log(0.3f)};
  EXPECT_EQ(counts(logits, {.temperature = 1, .top_k = 2, .top_p = 0.5}, 500, 9)[0], 500);
  EXPECT_LT(counts(logits, {.temperature = 1, .top_p = 0.5}, 500, 9)[0], 500);
}

TEST(MinP, KeepsAShareOfTheLikeliest) {
  const std::vector<float> logits = {std::log(0.5f), std::log(0.3f), std::log(0.2f)};
  EXPECT_EQ(counts(logits, {.temperature = 1, .min_p = 0.5}, 1000, 10)[2], 0);
  EXPECT_GT(counts(logits, {.temperature = 1, .min_p = 0.5}, 1000, 10)[1], 0);
  EXPECT_GT(counts(logits, {.temperature = 1, .min_p = 0.39}, 1000, 10)[2], 0);
  EXPECT_EQ(counts(logits, {.temperature = 1, .min_p = 1}, 1000, 10)[0], 1000);
  const std::vector<int> ties = counts({1, 1, 0}, {.temperature = 1, .min_p = 1}, 1000, 11);
  EXPECT_GT(ties[0], 300);
  EXPECT_GT(ties[1], 300);
}

TEST(Sample, MinusInfinityIsNeverDrawn) {
  const std::vector<float> logits = {-kInfinity, 0, -kInfinity, 0, -kInfinity};
  for (const SampleSpec& spec :
       {SampleSpec{.temperature = 1}, SampleSpec{.temperature = 1e6, .top_k = 4},
        SampleSpec{.temperature = 1, .top_p = 0.999}}) {
    const std::vector<int> seen = counts(logits, spec, 500, 12);
    EXPECT_EQ(seen[0] + seen[2] + seen[4], 0);
    EXPECT_GT(seen[1], 100);
  }
}

TEST(Sample, INF_09_IsTheNaiveOneDrawForDraw) {
  const SampleSpec specs[] = {
      {.temperature = 1},
      {.temperature = 0.7, .top_k = 40},
      {.temperature = 1.3, .top_p = 0.9},
      {.temperature = 2, .min_p = 0.05},
      {.temperature = 1.5, .top_k = 300, .top_p = 0.95, .min_p = 0.01},
      {.temperature = 30, .top_p = 0.99},  // nearly flat: thousands are kept
  };
  for (const std::size_t V : {1u, 2u, 33u, 256u, 257u, 5000u}) {
    for (const SampleSpec& spec : specs) {
      const std::vector<float> logits = random_logits(V, V);
      const std::vector<double> p =
          ref::filtered(logits, spec.temperature, spec.top_k, spec.top_p, spec.min_p);
      Rng ours(21), theirs(21);
      for (int i = 0; i < 50; ++i) {
        ASSERT_EQ(sample(logits, spec, {}, ours), ref::draw(p, theirs.uniform()))
            << "V " << V << " top_k " << spec.top_k << " top_p " << spec.top_p << " draw " << i;
      }
    }
  }
}

TEST(Sample, KeepsExactlyWhatTheNaiveOneKeeps) {
  const SampleSpec spec = {.temperature = 3, .top_k = 20, .top_p = 0.9, .min_p = 0.02};
  const std::vector<float> logits = random_logits(64, 2);
  const std::vector<double> p =
      ref::filtered(logits, spec.temperature, spec.top_k, spec.top_p, spec.min_p);
  constexpr int kDraws = 50000;
  const std::vector<int> seen = counts(logits, spec, kDraws, 14);
  for (std::size_t i = 0; i < p.size(); ++i) {
    EXPECT_NEAR(seen[i], p[i] * kDraws, 5 * std::sqrt(kDraws * p[i] * (1 - p[i]))) << i;
    EXPECT_EQ(seen[i] == 0, p[i] == 0) << i;
  }
}

TEST(Sample, ErrorsOfLogits) {
  const float nan = std::numeric_limits<float>::quiet_NaN();
  EXPECT_THROW((void)greedy({}), ArgumentError);
  EXPECT_THAT([&] { (void)greedy({1, nan}); }, ThrowsMessage<ArgumentError>("logits hold a NaN"));
  EXPECT_THAT([&] { (void)greedy({nan, 1}); }, ThrowsMessage<ArgumentError>("logits hold a NaN"));
  EXPECT_THAT(
      [&] {
        (void)greedy({nan, 1}, {.temperature = 1});
      },
      ThrowsMessage<ArgumentError>("logits hold a NaN"));
  EXPECT_THAT(
      [&] {
        (void)greedy({1, kInfinity});
      },
      ThrowsMessage<ArgumentError>("logits hold an infinity"));
  EXPECT_THAT(
      [&] {
        (void)greedy({-kInfinity, -kInfinity});
      },
      ThrowsMessage<ArgumentError>("logits hold no finite value"));
  EXPECT_THAT(
      [&] {
        (void)greedy({1, 2}, {.repeat_penalty = 2}, {2});
      },
      ThrowsMessage<ArgumentError>("recent holds 2, but logits has V = 2"));
  EXPECT_THROW((void)greedy({1, 2}, {}, {-1}), ArgumentError);
}

TEST(Sample, ErrorsOfSpecs) {
  const double nan = std::numeric_limits<double>::quiet_NaN();
  const auto refuses = [](const SampleSpec& spec, const char* name) {
    EXPECT_THAT([&] { (void)greedy({1, 2}, spec); }, ThrowsMessage<ArgumentError>(HasSubstr(name)));
    EXPECT_THROW(check(spec), ArgumentError);
  };
  for (const double bad : {-1.0, nan, double{kInfinity}}) {
    refuses({.temperature = bad}, "temperature");
    refuses({.min_p = bad}, "min_p");
    refuses({.top_p = bad}, "top_p");
    refuses({.repeat_penalty = bad}, "repeat_penalty");
  }
  refuses({.top_k = -1}, "top_k");
  refuses({.top_p = 0}, "top_p");
  refuses({.top_p = 1.01}, "top_p");
  refuses({.min_p = 1.01}, "min_p");
  refuses({.repeat_penalty = 0}, "repeat_penalty");
  EXPECT_NO_THROW(check({}));
}

}  // namespace
}  // namespace quire

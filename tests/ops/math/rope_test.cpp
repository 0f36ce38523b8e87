#include "quire/ops/math/rope.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <algorithm>
#include <cmath>
#include <numbers>
#include <thread>
#include <vector>

#include "quire/base/error.h"
#include "quire/base/thread_pool.h"
#include "tests/ops/math/rope_case.h"
#include "tests/reference/rope.h"

namespace quire {
namespace {

using test::f32_tensor;
using test::floats_of;
using test::normal_tensor;
using test::turned;
using testing::DoubleNear;
using testing::ElementsAre;
using testing::HasSubstr;
using testing::ThrowsMessage;

TEST(RopeFrequencies, Unscaled) {
  EXPECT_THAT(rope_frequencies({.rotary = 8, .theta = 10000}),
              ElementsAre(DoubleNear(1, 1e-15), DoubleNear(0.1, 1e-15), DoubleNear(0.01, 1e-16),
                          DoubleNear(0.001, 1e-17)));
  EXPECT_THAT(rope_frequencies({.rotary = 0}), ElementsAre());
}

TEST(RopeFrequencies, FactorsDivide) {
  EXPECT_THAT(rope_frequencies({.rotary = 4, .theta = 100, .factors = {1, 8}}),
              ElementsAre(DoubleNear(1, 1e-15), DoubleNear(0.1 / 8, 1e-16)));
}

TEST(RopeFrequencies, FLA_11_LinearDivides) {
  EXPECT_THAT(
      rope_frequencies({.rotary = 4, .theta = 100, .scaling = RopeScaling::kLinear, .factor = 4}),
      ElementsAre(DoubleNear(0.25, 1e-15), DoubleNear(0.025, 1e-16)));
}

// R = 16, theta = 10⁴, original context 32. Pair 16·ln(32 / (32·2π)) / (2·ln 10⁴) = −1.6 turns 32
// times, pair 16·ln(32 / 2π) / (2·ln 10⁴) = 1.41 turns once: whole pairs 0 to 2, so pair 1 is half
// divided.
TEST(RopeFrequencies, FLA_11_YarnBlendsBetweenWholePairs) {
  const RopeSpec spec = {.rotary = 16,
                         .theta = 10000,
                         .scaling = RopeScaling::kYarn,
                         .factor = 8,
                         .original_context = 32};
  const std::vector<double> f = rope_frequencies(spec);
  ASSERT_EQ(f.size(), 8u);
  EXPECT_NEAR(f[0], 1, 1e-15);
  EXPECT_NEAR(f[1], std::pow(10, -0.5) * (0.5 + 0.5 / 8), 1e-15);
  for (std::size_t i = 2; i < 8; ++i)
    EXPECT_NEAR(f[i] / (std::pow(10, -0.5 * static_cast<double>(i)) / 8), 1, 1e-14);
  EXPECT_NEAR(yarn_attention_factor(8), 1.2079441541679836, 1e-15);
  EXPECT_EQ(yarn_attention_factor(1), 1);
  EXPECT_EQ(yarn_attention_factor(0.5), 1);
}

TEST(RopeFrequencies, FLA_11_YarnWithoutTruncationBlendsInFractionsOfPairs) {
  const RopeSpec spec = {.rotary = 32,
                         .theta = 150000,
                         .scaling = RopeScaling::kYarn,
                         .factor = 8,
                         .original_context = 32,
                         .truncate = false};
  const double high = 32 * std::log(32 / (2 * std::numbers::pi)) / (2 * std::log(150000.0));
  ASSERT_NEAR(high, 2.1856, 1e-3);
  const std::vector<double> f = rope_frequencies(spec);
  for (std::size_t i = 0; i < 16; ++i) {
    const double plain = std::pow(150000.0, -static_cast<double>(i) / 16),
                 divided = std::min(1.0, static_cast<double>(i) / high);
    EXPECT_NEAR(f[i] / (plain * (1 - divided) + plain / 8 * divided), 1, 1e-14) << i;
  }
}

TEST(RopeFrequencies, FLA_11_YarnWithAnEmptyBlendIsAStep) {
  // Both ends fall on pair 2: turning 1 time within 2π·100, theta = 10⁴ of R = 8 is exactly pair 2.
  const RopeSpec spec = {.rotary = 8,
                         .theta = 10000,
                         .scaling = RopeScaling::kYarn,
                         .factor = 2,
                         .original_context = 200 * std::numbers::pi,
                         .beta_fast = 1,
                         .beta_slow = 1,
                         .truncate = false};
  const std::vector<double> f = rope_frequencies(spec);
  EXPECT_NEAR(f[1], 0.1, 1e-12);
  EXPECT_NEAR(f[3], 0.0005, 1e-12);
}

TEST(RopeFrequencies, FLA_11_Llama3DividesLongWavelengths) {
  const RopeSpec spec = {.rotary = 16,
                         .theta = 5e5,
                         .scaling = RopeScaling::kLlama3,
                         .factor = 8,
                         .original_context = 64};
  const std::vector<double> f = rope_frequencies(spec);
  for (std::size_t i = 0; i < 8; ++i) {
    const double plain = std::pow(5e5, -static_cast<double>(i) / 8),
                 wavelength = 2 * std::numbers::pi / plain;
    const double smooth = (64 / wavelength - 1) / 3;
    const double expected = wavelength > 64   ? plain / 8
                            : wavelength < 16 ? plain
                                              : (1 - smooth) * plain / 8 + smooth * plain;
    EXPECT_NEAR(f[i] / expected, 1, 1e-14) << i;
  }
}

TEST(Rope, HandWorked) {
  // One pair, one radian a position.
  const RopeTable table({.rotary = 2});
  const std::int64_t positions[] = {0, 1, 2};
  const std::vector<float> out =
      turned(table, f32_tensor({1, 2, 1, 0, 0, 1}, {3, 1, 2}), positions);
  EXPECT_EQ(out[0], 1.0f);
  EXPECT_EQ(out[1], 2.0f);
  EXPECT_FLOAT_EQ(out[2], static_cast<float>(std::cos(1.0)));
  EXPECT_FLOAT_EQ(out[3], static_cast<float>(std::sin(1.0)));
  EXPECT_FLOAT_EQ(out[4], static_cast<float>(-std::sin(2.0)));
  EXPECT_FLOAT_EQ(out[5], static_cast<float>(std::cos(2.0)));
}

TEST(Rope, FLA_10_T24_PairingsAreAPermutationOfEachOther) {
  const Tensor half = normal_tensor({5, 3, 66}, 1);
  // Interleaved place 2i holds half-split place i, and 2i + 1 holds i + 33.
  const Tensor interleaved =
      half.view({5, 3, 2, 33}).transpose(2, 3).contiguous_copy().view({5, 3, 66});
  const std::int64_t positions[] = {0, 7, 7, 1000, 3};
  const RopeTable a({.pairing = RopePairing::kHalfSplit, .rotary = 66});
  const RopeTable b({.pairing = RopePairing::kInterleaved, .rotary = 66});
  const Tensor back = f32_tensor(turned(b, interleaved, positions), {5, 3, 33, 2}).transpose(2, 3);
  EXPECT_EQ(turned(a, half, positions), floats_of(back));
}

TEST(Rope, NoWorseThanTwiceTheNaiveLoop) {
  for (const bool interleaved : {false, true}) {
    for (const std::int64_t R : {2, 30, 32, 34, 62, 64, 66, 128}) {
      const RopeSpec spec = {
          .pairing = interleaved ? RopePairing::kInterleaved : RopePairing::kHalfSplit,
          .rotary = R};
      const RopeTable table(spec);
      const std::vector<double> frequencies = rope_frequencies(spec);
      const std::int64_t K = R + 3;  // the last three numbers stay
      const std::vector<std::int64_t> positions = {0, 1, 63, 64, 8191};
      const Tensor x = normal_tensor({5, 2, K}, static_cast<std::uint64_t>(R));
      const std::vector<float> out = turned(table, x, positions), in = floats_of(x);
      double ours = 0, yardstick = 0;
      for (std::size_t row = 0; row < 10; ++row) {
        const auto begin = in.begin() + static_cast<std::ptrdiff_t>(row) * K;
        std::vector<double> truth(begin, begin + K);
        std::vector<float> naive(begin, begin + K);
        ref::rope(truth, frequencies, positions[row / 2], 1, interleaved);
        ref::rope(naive, frequencies, positions[row / 2], 1, interleaved);
        for (std::size_t k = 0; k < static_cast<std::size_t>(K); ++k) {
          const double value = double{out[row * static_cast<std::size_t>(K) + k]};
          ours = std::max(ours, std::abs(value - truth[k]));
          yardstick = std::max(yardstick, std::abs(double{naive[k]} - truth[k]));
          if (k >= static_cast<std::size_t>(R)) {
            EXPECT_EQ(value, truth[k]);
          }
        }
      }
      EXPECT_LE(ours, 2 * yardstick) << R;
      EXPECT_LE(ours, 1e-6) << "the angles are not those of the naive loop, which are off by 1e-4";
    }
  }
}

TEST(Rope, T24_FarPositionsAreAsExactAsNearOnes) {
  const RopeTable table({.rotary = 2});
  const std::int64_t far = 10'000'019;
  const std::vector<float> out = turned(table, f32_tensor({1, 0}, {1, 1, 2}), std::span(&far, 1));
  EXPECT_NEAR(out[0], std::cos(10'000'019.0), 1e-7);
  EXPECT_NEAR(out[1], std::sin(10'000'019.0), 1e-7);
}

TEST(Rope, YarnScalesByTheAttentionFactor) {
  RopeSpec spec = {.rotary = 4, .scaling = RopeScaling::kYarn, .factor = 8, .original_context = 32};
  const std::int64_t zero = 0;
  const Tensor x = f32_tensor({1, 2, 3, 4, 5}, {1, 1, 5});
  EXPECT_THAT(turned(RopeTable(spec), x, std::span(&zero, 1)),
              testing::Pointwise(testing::FloatEq(),
                                 {1.2079442f, 2.4158883f, 3.6238325f, 4.8317766f, 5.0f}));
  spec.attention_factor = 2;
  EXPECT_THAT(turned(RopeTable(spec), x, std::span(&zero, 1)), ElementsAre(2, 4, 6, 8, 5));
}

TEST(Rope, ConsecutivePositionsByTheirFirst) {
  const RopeTable table({.rotary = 8});
  const Tensor x = normal_tensor({3, 2, 8}, 9);
  const std::int64_t positions[] = {62, 63, 64};
  Tensor in_place = x.to(DType::kF32);
  table.apply(in_place, 62);
  EXPECT_EQ(floats_of(in_place), turned(table, x, positions));
}

TEST(Rope, TurnsSlicesInPlace) {
  // Queries and keys of one fused product: the keys are heads 2 and 3 of each row.
  Tensor fused = normal_tensor({4, 5, 16}, 3);
  const std::vector<float> before = floats_of(fused);
  const std::int64_t positions[] = {5, 6, 7, 8};
  const RopeTable table({.rotary = 16});
  const std::vector<float> expected = turned(table, fused.slice(1, 2, 4), positions);
  Tensor keys = fused.slice(1, 2, 4);
  table.apply(keys, positions);
  EXPECT_EQ(floats_of(fused.slice(1, 2, 4)), expected);
  EXPECT_EQ(floats_of(fused.slice(1, 0, 2)),
            floats_of(f32_tensor(before, {4, 5, 16}).slice(1, 0, 2)));
  EXPECT_EQ(floats_of(fused.slice(1, 4, 5)),
            floats_of(f32_tensor(before, {4, 5, 16}).slice(1, 4, 5)));
}

TEST(Rope, BitsDependNeitherOnThreadsNorOnTheOtherRows) {
  for (const RopePairing pairing : {RopePairing::kInterleaved, RopePairing::kHalfSplit}) {
    const RopeTable table({.pairing = pairing, .rotary = 64});
    const Tensor x = normal_tensor({300, 9, 64}, 4);
    std::vector<std::int64_t> positions(300);
    for (std::size_t i = 0; i < 300; ++i) positions[i] = static_cast<std::int64_t>(i * i % 1009);
    set_threads(1);
    const std::vector<float> one = turned(table, x, positions);
    for (const int threads : {2, 7}) {
      set_threads(threads);
      EXPECT_EQ(turned(table, x, positions), one) << threads << " threads";
    }
    set_threads(1);
    const std::vector<float> row = turned(table, x.slice(0, 17, 18), std::span(&positions[17], 1));
    EXPECT_EQ(row, (std::vector<float>(one.begin() + 17 * 9 * 64, one.begin() + 18 * 9 * 64)));
  }
}

TEST(Rope, OneTableServesSeveralThreads) {
  const RopeTable shared({.rotary = 32}), own({.rotary = 32});
  const Tensor x = normal_tensor({1, 1, 32}, 5);
  std::vector<std::vector<float>> got(4);
  std::vector<std::thread> threads;
  for (std::size_t t = 0; t < 4; ++t) {
    threads.emplace_back([&, t] {
      for (std::int64_t p = 0; p < 2000; p += 17) got[t] = turned(shared, x, std::span(&p, 1));
    });
  }
  for (std::thread& thread : threads) thread.join();
  const std::int64_t last = 1989;
  for (const auto& result : got) EXPECT_EQ(result, turned(own, x, std::span(&last, 1)));
}

TEST(Rope, EmptyInputs) {
  const RopeTable table({.rotary = 4});
  Tensor none = Tensor::empty({0, 2, 4}, DType::kF32);
  EXPECT_NO_THROW(table.apply(none, 0));
  Tensor no_heads = Tensor::empty({3, 0, 4}, DType::kF32);
  EXPECT_NO_THROW(table.apply(no_heads, 0));
  const RopeTable still({.rotary = 0});
  EXPECT_THAT(turned(still, f32_tensor({1, 2}, {1, 1, 2}), std::vector<std::int64_t>{5}),
              ElementsAre(1, 2));
}

TEST(Rope, ErrorsOfApply) {
  const RopeTable table({.rotary = 4});
  Tensor x = Tensor::zeros({2, 1, 4}, DType::kF32);
  const std::int64_t three[] = {0, 1, 2}, negative[] = {0, -1}, far[] = {std::int64_t{1} << 40, 0},
                     two[] = {0, 1};
  EXPECT_THAT([&] { table.apply(x, three); },
              ThrowsMessage<ArgumentError>("x_NHK: N is 2, but positions has N = 3"));
  EXPECT_THAT([&] { table.apply(x, negative); },
              ThrowsMessage<ArgumentError>(HasSubstr("position -1")));
  EXPECT_THROW(table.apply(x, far), ArgumentError);
  EXPECT_THROW(table.apply(x, -1), ArgumentError);
  EXPECT_THROW(table.apply(x, (std::int64_t{1} << 40) - 1), ArgumentError);
  Tensor narrow = Tensor::zeros({2, 1, 3}, DType::kF32);
  EXPECT_THAT([&] { table.apply(narrow, two); },
              ThrowsMessage<ArgumentError>("x_NHK: K is 3, but 4 numbers of a head turn"));
  Tensor half = Tensor::zeros({2, 1, 4}, DType::kF16);
  EXPECT_THAT([&] { table.apply(half, two); },
              ThrowsMessage<ArgumentError>("x_NHK is f16, expected f32 or f64"));
  Tensor flat = Tensor::zeros({2, 4}, DType::kF32);
  EXPECT_THAT([&] { table.apply(flat, two); },
              ThrowsMessage<ArgumentError>("x_NHK: rank is 2, expected 3"));
  Tensor gaps = Tensor::zeros({2, 4, 4}, DType::kF32).transpose(1, 2);
  EXPECT_THAT([&] { table.apply(gaps, two); },
              ThrowsMessage<ArgumentError>(HasSubstr("last dimension")));
  Tensor expanded = Tensor::zeros({1, 1, 4}, DType::kF32).expand({2, 1, 4});
  EXPECT_THAT([&] { table.apply(expanded, two); },
              ThrowsMessage<ArgumentError>(HasSubstr("expanded")));
}

TEST(Rope, ErrorsOfSpecs) {
  const auto refuses = [](RopeSpec spec, const char* name) {
    EXPECT_THAT([&] { (void)RopeTable(spec); }, ThrowsMessage<ArgumentError>(HasSubstr(name)));
  };
  refuses({.rotary = 3}, "rotary");
  refuses({.rotary = -2}, "rotary");
  refuses({.rotary = 1 << 21}, "rotary");
  refuses({.rotary = 4, .theta = 1}, "theta");
  refuses({.rotary = 4, .theta = std::nan("")}, "theta");
  refuses({.rotary = 4, .factors = {1}}, "1 factors for 2 pairs");
  refuses({.rotary = 4, .factors = {1, 0}}, "factor of a pair");
  refuses({.rotary = 4, .scaling = RopeScaling::kLinear, .factor = 0}, "factor is 0");
  refuses({.rotary = 4, .scaling = RopeScaling::kYarn, .factor = 2}, "original_context");
  const RopeSpec yarn = {
      .rotary = 4, .scaling = RopeScaling::kYarn, .factor = 2, .original_context = 8};
  RopeSpec bad = yarn;
  bad.beta_slow = 33;
  refuses(bad, "beta_slow");
  bad = yarn;
  bad.beta_fast = -1;
  refuses(bad, "beta_fast");
  bad = yarn;
  bad.attention_factor = -1;
  refuses(bad, "attention_factor");
  bad = yarn;
  bad.scaling = RopeScaling::kLlama3;
  bad.low_frequency_factor = 4;
  refuses(bad, "low_frequency_factor");
}

}  // namespace
}  // namespace quire

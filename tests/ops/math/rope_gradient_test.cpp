// The gradient of rope, and its inverse.
#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <algorithm>
#include <cmath>
#include <vector>

#include "quire/base/error.h"
#include "quire/base/thread_pool.h"
#include "quire/ops/math/rope.h"
#include "tests/ops/math/rope_case.h"
#include "tests/reference/rope.h"
#include "tests/support/gradient_check.h"

namespace quire {
namespace {

using test::floats_of;
using test::normal_tensor;
using test::turned;
using testing::ElementsAre;
using testing::HasSubstr;
using testing::ThrowsMessage;

// The reference's head, turned in T, for rows of H heads of size K.
template <class T>
std::vector<T> naive(std::vector<T> x, std::int64_t H, std::int64_t K, const RopeSpec& spec,
                     std::span<const std::int64_t> positions, double magnitude = 1) {
  const std::vector<double> frequencies = rope_frequencies(spec);
  for (std::size_t row = 0; row * static_cast<std::size_t>(K) < x.size(); ++row) {
    const auto begin = x.begin() + static_cast<std::ptrdiff_t>(row) * K;
    std::vector<T> head(begin, begin + K);
    ref::rope(head, frequencies, positions[row / static_cast<std::size_t>(H)], magnitude,
              spec.pairing == RopePairing::kInterleaved);
    std::copy(head.begin(), head.end(), begin);
  }
  return x;
}

// Both pairings, whole and partial heads, odd numbers of pairs, with and without an attention
// factor.
std::vector<RopeSpec> specs() {
  std::vector<RopeSpec> out;
  for (const RopePairing pairing : {RopePairing::kInterleaved, RopePairing::kHalfSplit}) {
    for (const std::int64_t R : {2, 6, 16, 34, 36}) {
      out.push_back({.pairing = pairing, .rotary = R, .theta = 100});
      out.push_back({.pairing = pairing,
                     .rotary = R,
                     .theta = 100,
                     .scaling = RopeScaling::kYarn,
                     .factor = 8,
                     .original_context = 32});
    }
  }
  return out;
}

double magnitude_of(const RopeSpec& spec) {
  return spec.scaling == RopeScaling::kYarn ? yarn_attention_factor(spec.factor) : 1;
}

constexpr std::int64_t kPacked[] = {0, 1, 2, 0, 1, 77};  // a packed batch, and a jump

TEST(RopeGradient, FLA_10_F64IsTheFormula) {
  const Tensor x = test::random_tensor({6, 3, 36}, 1);
  for (const RopeSpec& spec : specs()) {
    test::expect_close(test::values(rope(x, RopeTable(spec), kPacked)),
                       naive(test::values(x), 3, 36, spec, kPacked, magnitude_of(spec)), "f64",
                       1e-14);
  }
}

TEST(RopeGradient, FLA_10_BackwardByTheComplexStep) {
  const Tensor x = test::random_tensor({6, 2, 36}, 2), dout = test::random_tensor({6, 2, 36}, 3);
  for (const RopeSpec& spec : specs()) {
    const auto f = [&](const auto& in) {
      return naive(in[0], 2, 36, spec, kPacked, magnitude_of(spec));
    };
    const std::vector<double> expected =
        test::complex_step(f, {test::values(x)}, 0, test::values(dout));
    const RopeTable table(spec);
    test::expect_close(test::values(rope_backward(dout, table, kPacked)), expected, "f64", 1e-14);
    // f32: the numbers are of the size of 4, and two products and a sum are rounded.
    test::expect_close(test::values(rope_backward(dout.to(DType::kF32), table, kPacked)), expected,
                       "f32", 3e-7);
  }
}

TEST(RopeGradient, FLA_10_TheInverseUndoesIt) {
  for (const RopeSpec& spec : specs()) {
    const RopeTable table(spec);
    for (const DType dtype : {DType::kF64, DType::kF32}) {
      const Tensor x = test::random_tensor({6, 3, 36}, 4, dtype);
      const Tensor there = rope(x, table, kPacked);
      EXPECT_NE(test::values(there), test::values(x));
      test::expect_close(test::values(rope_inverse(there, table, kPacked)), test::values(x),
                         std::string(to_string(dtype)), dtype == DType::kF64 ? 1e-15 : 4e-7);
    }
  }
}

TEST(RopeGradient, FLA_10_BackwardIsTheInverseWhereNothingIsScaled) {
  const RopeTable table({.rotary = 32});
  const Tensor x = normal_tensor({6, 2, 40}, 5);
  EXPECT_EQ(floats_of(rope_backward(x, table, kPacked)),
            floats_of(rope_inverse(x, table, kPacked)));
}

TEST(RopeGradient, FLA_10_B17_T24_NeighboursAreInterleavedAndHalvesAreHalfSplit) {
  // Position 1, one radian for the first pair and 0.01 for the second. Interleaved (GPT-J) turns
  // (x0, x1) and (x2, x3); half-split (GPT-NeoX, Qwen) turns (x0, x2) and (x1, x3).
  const Tensor x = test::tensor_of({1, 2, 3, 4}, {1, 1, 4});
  const std::int64_t one = 1;
  const double c0 = std::cos(1.0), s0 = std::sin(1.0), c1 = std::cos(0.01), s1 = std::sin(0.01);
  const RopeTable neighbours({.pairing = RopePairing::kInterleaved, .rotary = 4}),
      halves({.pairing = RopePairing::kHalfSplit, .rotary = 4});
  test::expect_close(test::values(rope(x, neighbours, std::span(&one, 1))),
                     {c0 - 2 * s0, s0 + 2 * c0, 3 * c1 - 4 * s1, 3 * s1 + 4 * c1}, "neighbours",
                     1e-15);
  test::expect_close(test::values(rope(x, halves, std::span(&one, 1))),
                     {c0 - 3 * s0, 2 * c1 - 4 * s1, s0 + 3 * c0, 2 * s1 + 4 * c1}, "halves", 1e-15);
}

TEST(RopeGradient, FLA_10_LengthsAreKept) {
  // A turn keeps the length of each pair, so scores depend on differences of positions alone.
  const RopeTable table({.pairing = RopePairing::kInterleaved, .rotary = 16});
  const Tensor q = test::random_tensor({1, 1, 16}, 6), k = test::random_tensor({1, 1, 16}, 7);
  const auto score = [&](std::int64_t at_q, std::int64_t at_k) {
    const std::vector<double> a = test::values(rope(q, table, std::span(&at_q, 1))),
                              b = test::values(rope(k, table, std::span(&at_k, 1)));
    double sum = 0;
    for (std::size_t i = 0; i < a.size(); ++i) sum += a[i] * b[i];
    return sum;
  };
  EXPECT_NEAR(score(9, 2), score(1007, 1000), 1e-12);
  EXPECT_GT(std::abs(score(9, 2) - score(9, 3)), 1e-3);
}

TEST(RopeGradient, FLA_10_TheInPlaceFormHasTheSameBits) {
  const RopeTable table({.rotary = 34});
  const Tensor x = normal_tensor({6, 3, 36}, 8);
  EXPECT_EQ(floats_of(rope(x, table, kPacked)), turned(table, x, kPacked));
}

TEST(RopeGradient, FLA_10_HalfTypesAreTurnedInF32AndRoundedOnce) {
  const RopeTable table({.rotary = 16});
  for (const DType dtype : {DType::kBF16, DType::kF16}) {
    const Tensor x = test::random_tensor({6, 2, 16}, 9, dtype);
    const Tensor out = rope(x, table, kPacked);
    EXPECT_EQ(out.dtype(), dtype);
    EXPECT_EQ(test::values(out), test::values(rope(x.to(DType::kF32), table, kPacked).to(dtype)));
  }
}

TEST(RopeGradient, FLA_10_StridedRows) {
  const RopeTable table({.rotary = 8});
  const Tensor x = test::random_tensor({6, 8, 3}, 10).transpose(1, 2);
  EXPECT_EQ(test::values(rope_backward(x, table, kPacked)),
            test::values(rope_backward(x.contiguous_copy(), table, kPacked)));
  const Tensor expanded = test::random_tensor({1, 3, 8}, 11).expand({6, 3, 8});
  EXPECT_EQ(test::values(rope(expanded, table, kPacked)),
            test::values(rope(expanded.contiguous_copy(), table, kPacked)));
}

TEST(RopeGradient, FLA_10_ThreadsDoNotChangeABit) {
  const Tensor x = test::random_tensor({700, 4, 64}, 12);
  std::vector<std::int64_t> positions(700);
  for (std::size_t i = 0; i < 700; ++i) positions[i] = static_cast<std::int64_t>(i * i % 1009);
  const RopeTable table({.rotary = 64});
  for (const DType dtype : {DType::kF64, DType::kF32}) {
    set_threads(1);
    const std::vector<double> one = test::values(rope_backward(x.to(dtype), table, positions));
    for (const int threads : {2, 7}) {
      set_threads(threads);
      EXPECT_EQ(test::values(rope_backward(x.to(dtype), table, positions)), one) << threads;
    }
    set_threads(1);
  }
}

TEST(RopeGradient, FLA_10_PackedBatchEqualsItsSequencesAlone) {
  const std::int32_t starts[] = {0, 3, 3, 8};
  const Tensor start_J = Tensor::of(std::span<const std::int32_t>(starts), {4});
  EXPECT_THAT(packed_positions(start_J), ElementsAre(0, 1, 2, 0, 1, 2, 3, 4));
  const std::int64_t first[] = {5, 0, 64};
  EXPECT_THAT(packed_positions(start_J, first), ElementsAre(5, 6, 7, 64, 65, 66, 67, 68));
  const RopeTable table({.rotary = 8});
  const Tensor x = normal_tensor({8, 2, 8}, 13);
  const Tensor packed = rope(x, table, packed_positions(start_J, first));
  Tensor alone = x.slice(0, 3, 8).to(DType::kF32);
  table.apply(alone, 64);
  EXPECT_EQ(floats_of(packed.slice(0, 3, 8)), floats_of(alone));
}

TEST(RopeGradient, Errors) {
  const RopeTable table({.rotary = 4});
  const std::int64_t two[] = {0, 1};
  EXPECT_THAT(
      [&] {
        (void)rope(Tensor::zeros({2, 1, 4}, DType::kI32), table, two);
      },
      ThrowsMessage<ArgumentError>("x_NHK is i32, expected f64, f32, bf16 or f16"));
  EXPECT_THROW((void)rope_backward(Tensor::zeros({3, 1, 4}, DType::kF32), table, two),
               ArgumentError);
  EXPECT_THROW((void)rope_inverse(Tensor::zeros({2, 1, 3}, DType::kF32), table, two),
               ArgumentError);
  const auto starts = [](std::vector<std::int32_t> numbers) {
    return Tensor::of(std::span<const std::int32_t>(numbers),
                      {static_cast<std::int64_t>(numbers.size())});
  };
  EXPECT_THAT(
      [&] {
        (void)packed_positions(starts({0, 2, 1}));
      },
      ThrowsMessage<ArgumentError>(HasSubstr("start_J falls from 2 to 1")));
  EXPECT_THROW((void)packed_positions(starts({1, 2})), ArgumentError);
  EXPECT_THROW((void)packed_positions(starts({0, 2}), two), ArgumentError);
  EXPECT_THROW((void)packed_positions(Tensor::zeros({3}, DType::kI64)), ArgumentError);
  EXPECT_THROW((void)packed_positions(Tensor::zeros({0}, DType::kI32)), ArgumentError);
}

}  // namespace
}  // namespace quire

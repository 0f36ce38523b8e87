#include "quire/ops/attention/hadamard.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <bit>
#include <cmath>
#include <cstring>
#include <vector>

#include "quire/base/error.h"
#include "quire/base/thread_pool.h"
#include "quire/tensor/rng.h"
#include "tests/support/message_of.h"

namespace quire {
namespace {

using test::message_of;
using testing::HasSubstr;

Tensor random(Shape shape, std::uint64_t seed) {
  Rng rng(seed);
  Tensor out = Tensor::empty(std::move(shape), DType::kF32);
  for (std::int64_t i = 0; i < out.elements(); ++i) out.mutable_data<float>()[i] = rng.normal();
  return out;
}

std::vector<float> numbers(const Tensor& x) {
  const Tensor plain = x.contiguous_copy();
  return {plain.data<float>(), plain.data<float>() + plain.elements()};
}

TEST(HadamardTest, turns_four_numbers_worked_by_hand) {
  const std::vector<float> x = {1, 2, 3, 4};
  const Tensor row = Tensor::of(std::span<const float>(x), {4});
  EXPECT_THAT(numbers(hadamard(row)), testing::ElementsAre(5.0f, -1.0f, -2.0f, 0.0f));
}

TEST(HadamardTest, is_the_matrix_of_signs_in_runs_of_the_largest_power_of_two) {
  for (const std::int64_t width : {1, 2, 3, 16, 20, 32, 64, 80, 96, 256}) {
    const std::int64_t n = width & -width;
    const Tensor x = random({3, width}, 1);
    const std::vector<float> in = numbers(x), out = numbers(hadamard(x));
    for (std::int64_t i = 0; i < 3 * width; ++i) {
      const std::int64_t begin = i / n * n;
      double sum = 0, largest = 0;
      for (std::int64_t j = 0; j < n; ++j) {
        const int shared = std::popcount(static_cast<std::uint64_t>((i - begin) & j));
        const double term = in[static_cast<std::size_t>(begin + j)];
        sum += shared % 2 == 0 ? term : -term;
        largest = std::max(largest, std::abs(term));
      }
      const double bound = 1e-7 * (std::log2(static_cast<double>(n)) + 2) * std::sqrt(n) * largest;
      EXPECT_NEAR(out[static_cast<std::size_t>(i)], sum / std::sqrt(static_cast<double>(n)), bound)
          << width << " " << i;
    }
  }
}

TEST(HadamardTest, turning_twice_gives_the_numbers_back_and_keeps_scores) {
  const Tensor q = random({5, 64}, 2), k = random({5, 64}, 3);
  const std::vector<float> x = numbers(q), again = numbers(hadamard(hadamard(q))), y = numbers(k),
                           turned_q = numbers(hadamard(q)), turned_k = numbers(hadamard(k));
  double score = 0, turned = 0;
  for (std::size_t i = 0; i < x.size(); ++i) {
    EXPECT_NEAR(again[i], x[i], 1e-5);
    score += double{x[i]} * y[i];
    turned += double{turned_q[i]} * turned_k[i];
  }
  EXPECT_NEAR(turned, score, 1e-4);
}

TEST(HadamardTest, PAG_15_strides_dtypes_and_threads_do_not_change_a_bit) {
  const Tensor x = random({1000, 2, 64}, 4);
  set_threads(1);
  const std::vector<float> expected = numbers(hadamard(x));
  set_threads(4);
  EXPECT_EQ(numbers(hadamard(x)), expected);
  const Tensor strided = x.transpose(0, 1);
  EXPECT_EQ(numbers(hadamard(strided).transpose(0, 1)), expected);
  const Tensor half = x.to(DType::kBF16);
  EXPECT_EQ(numbers(hadamard(half)), numbers(hadamard(half.to(DType::kF32))));
  EXPECT_EQ(hadamard(Tensor::empty({0, 64}, DType::kF32)).elements(), 0);
}

TEST(HadamardTest, refuses_what_it_cannot_turn) {
  EXPECT_THAT(message_of([] { hadamard(Tensor::zeros({4}, DType::kI32)); }),
              HasSubstr("x is i32; hadamard takes f32, bf16 and f16"));
  EXPECT_THAT(message_of([] { hadamard(Tensor::zeros({}, DType::kF32)); }),
              HasSubstr("x has rank 0"));
}

}  // namespace
}  // namespace quire

#include "quire/ops/math/rms_norm.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <cmath>
#include <cstring>
#include <limits>
#include <vector>

#include "quire/base/error.h"
#include "quire/base/thread_pool.h"
#include "tests/reference/rms_norm.h"
#include "tests/support/f32_tensors.h"
#include "tests/support/gradient_check.h"

namespace quire {
namespace {

using test::f32_tensor;
using test::floats_of;
using test::normal_floats;
using testing::ThrowsMessage;

TEST(RmsNorm, HandWorked) {
  // The root mean square of 3 and 4 is 5/√2; of 0 and 0 with epsilon 4 it is 2.
  const Tensor x_ND = f32_tensor({3, 4, 0, 0}, {2, 2}), weight_D = f32_tensor({1, 10}, {2});
  const std::vector<float> out = floats_of(rms_norm(x_ND, weight_D, 0));
  EXPECT_FLOAT_EQ(out[0], static_cast<float>(3 * std::sqrt(2.0) / 5));
  EXPECT_FLOAT_EQ(out[1], static_cast<float>(40 * std::sqrt(2.0) / 5));
  EXPECT_TRUE(std::isnan(out[2]));
  EXPECT_EQ(floats_of(rms_norm(f32_tensor({2, 0}, {1, 2}), weight_D, 2))[0], 1.0f);
}

TEST(RmsNorm, NoWorseThanTwiceTheNaiveLoop) {
  for (const std::int64_t N : {1, 3}) {
    for (const std::int64_t D : {1, 15, 16, 17, 31, 32, 33, 63, 64, 65, 127, 576, 577, 4096}) {
      const std::vector<float> x = normal_floats(N * D, static_cast<std::uint64_t>(D), 3);
      const std::vector<float> weight = normal_floats(D, 77);
      const std::vector<float> out =
          floats_of(rms_norm(f32_tensor(x, {N, D}), f32_tensor(weight, {D}), 1e-5));
      const std::vector<double> truth =
          ref::rms_norm<double>({x.begin(), x.end()}, {weight.begin(), weight.end()}, 1e-5);
      const std::vector<float> naive = ref::rms_norm<float>(x, weight, 1e-5);
      double ours = 0, yardstick = 0, largest = 0;
      for (std::size_t i = 0; i < out.size(); ++i) {
        ours = std::max(ours, std::abs(double{out[i]} - truth[i]));
        yardstick = std::max(yardstick, std::abs(double{naive[i]} - truth[i]));
        largest = std::max(largest, std::abs(truth[i]));
      }
      EXPECT_LE(ours, 2 * yardstick + 0x1p-24 * largest) << "N " << N << " D " << D;
    }
  }
}

TEST(RmsNorm, IsExactEnoughForALongRow) {
  constexpr std::int64_t D = 1 << 16;
  const std::vector<float> x = normal_floats(D, 3), weight(D, 1.0f);
  const std::vector<float> out =
      floats_of(rms_norm(f32_tensor(x, {1, D}), f32_tensor(weight, {D}), 0));
  const std::vector<double> truth =
      ref::rms_norm<double>({x.begin(), x.end()}, {weight.begin(), weight.end()}, 0);
  for (std::size_t i = 0; i < out.size(); ++i)
    ASSERT_NEAR(out[i], truth[i], 3e-7 * std::abs(truth[i]));
}

TEST(RmsNorm, EmptyInputs) {
  EXPECT_THAT(
      rms_norm(Tensor::empty({0, 8}, DType::kF32), Tensor::zeros({8}, DType::kF32), 1e-5).shape(),
      testing::ElementsAre(0, 8));
  EXPECT_THAT(
      rms_norm(Tensor::empty({3, 0}, DType::kF32), Tensor::zeros({0}, DType::kF32), 1e-5).shape(),
      testing::ElementsAre(3, 0));
}

TEST(RmsNorm, TakesAnyStrides) {
  const Tensor x_DN = f32_tensor(normal_floats(20 * 5, 4), {20, 5}),
               weight_D = f32_tensor(normal_floats(20, 5), {20});
  const Tensor turned_ND = x_DN.transpose(0, 1);
  EXPECT_EQ(floats_of(rms_norm(turned_ND, weight_D, 1e-5)),
            floats_of(rms_norm(turned_ND.contiguous_copy(), weight_D, 1e-5)));
  const Tensor one_D = f32_tensor({2}, {1}).expand({20});
  EXPECT_EQ(floats_of(rms_norm(turned_ND, one_D, 1e-5)),
            floats_of(rms_norm(turned_ND, one_D.contiguous_copy(), 1e-5)));
}

TEST(RmsNorm, BitsDependOnNothingButTheRow) {
  constexpr std::int64_t N = 301, D = 579;
  const Tensor x_ND = f32_tensor(normal_floats(N * D, 6), {N, D}),
               weight_D = f32_tensor(normal_floats(D, 7), {D});
  set_threads(1);
  const std::vector<float> one = floats_of(rms_norm(x_ND, weight_D, 1e-5));
  for (const int threads : {2, 7}) {
    set_threads(threads);
    EXPECT_EQ(floats_of(rms_norm(x_ND, weight_D, 1e-5)), one) << threads << " threads";
  }
  set_threads(1);
  for (const std::int64_t n : {std::int64_t{0}, std::int64_t{150}, N - 1}) {
    const std::vector<float> row = floats_of(rms_norm(x_ND.slice(0, n, n + 1), weight_D, 1e-5));
    EXPECT_EQ(std::memcmp(row.data(), one.data() + n * D, sizeof(float) * D), 0) << "row " << n;
  }
}

TEST(RmsNorm, ANanStaysInItsRow) {
  std::vector<float> x(4, 1.0f);
  x[0] = std::numeric_limits<float>::quiet_NaN();
  const std::vector<float> out =
      floats_of(rms_norm(f32_tensor(x, {2, 2}), f32_tensor({1, 1}, {2}), 0));
  EXPECT_TRUE(std::isnan(out[1]));
  EXPECT_EQ(out[2], 1.0f);
}

TEST(RmsNorm, Errors) {
  const Tensor x_ND = Tensor::zeros({2, 3}, DType::kF32),
               weight_D = Tensor::zeros({3}, DType::kF32);
  EXPECT_THAT([&] { (void)rms_norm(x_ND, Tensor::zeros({4}, DType::kF32), 0); },
              ThrowsMessage<ArgumentError>("x_ND: D is 3, but weight_D has D = 4"));
  EXPECT_THAT([&] { (void)rms_norm(weight_D, weight_D, 0); },
              ThrowsMessage<ArgumentError>("x_ND: rank is 1, expected 2"));
  EXPECT_THAT([&] { (void)rms_norm(x_ND.to(DType::kF16), weight_D, 0); },
              ThrowsMessage<ArgumentError>("x_ND is f16, expected f32 or f64"));
  EXPECT_THAT([&] { (void)rms_norm(x_ND, weight_D.to(DType::kF64), 0); },
              ThrowsMessage<ArgumentError>("weight_D is f64, expected f32, the dtype of x_ND"));
  EXPECT_THROW((void)rms_norm(x_ND, weight_D, -1e-9), ArgumentError);
  EXPECT_THROW((void)rms_norm(x_ND, weight_D, std::nan("")), ArgumentError);
}

TEST(RmsNorm, OTH_05_Backward) {
  using C = std::complex<double>;
  for (const std::int64_t D : {1, 7, 130}) {
    const std::int64_t N = 5;
    const Tensor x = test::random_tensor({N, D}, 1), weight = test::random_tensor({D}, 2),
                 dout = test::random_tensor({N, D}, 3);
    const RmsNormGradients both = rms_norm_backward(dout, x, weight, 0.1);
    const auto reference = [](const std::vector<std::vector<C>>& in) {
      return ref::rms_norm<C>(in[0], in[1], 0.1);
    };
    const std::vector<std::vector<double>> inputs = {test::values(x), test::values(weight)};
    const std::vector<double> over = test::values(dout);
    test::expect_close(test::values(both.dx_ND), test::complex_step(reference, inputs, 0, over),
                       "x", 1e-13);
    test::expect_close(test::values(both.dweight_D), test::complex_step(reference, inputs, 1, over),
                       "weight", 1e-13);
    const auto single = [](const Tensor& t) { return t.to(DType::kF32); };
    const RmsNormGradients narrow = rms_norm_backward(single(dout), single(x), single(weight), 0.1);
    test::expect_close(test::values(narrow.dx_ND), test::values(both.dx_ND), "f32 x", 1e-6);
    test::expect_close(test::values(narrow.dweight_D), test::values(both.dweight_D), "f32 w", 1e-6);
  }
}

TEST(RmsNorm, InDoublePrecision) {
  const Tensor x = test::random_tensor({3, 40}, 4), weight = test::random_tensor({40}, 5);
  test::expect_close(test::values(rms_norm(x, weight, 1e-5)),
                     ref::rms_norm<double>(test::values(x), test::values(weight), 1e-5), "f64",
                     1e-14);
}

TEST(RmsNorm, BackwardWithAnyNumberOfThreads) {
  const Tensor x = test::random_tensor({301, 130}, 6, DType::kF32),
               weight = test::random_tensor({130}, 7, DType::kF32);
  set_threads(1);
  const RmsNormGradients one = rms_norm_backward(x, x, weight, 1e-5);
  for (const int threads : {2, 7}) {
    set_threads(threads);
    const RmsNormGradients many = rms_norm_backward(x, x, weight, 1e-5);
    EXPECT_EQ(floats_of(many.dx_ND), floats_of(one.dx_ND));
    EXPECT_EQ(floats_of(many.dweight_D), floats_of(one.dweight_D));
  }
}

TEST(RmsNorm, BackwardErrors) {
  const Tensor x = Tensor::zeros({2, 3}, DType::kF32), weight = Tensor::zeros({3}, DType::kF32);
  EXPECT_THROW((void)rms_norm_backward(Tensor::zeros({3, 3}, DType::kF32), x, weight, 0),
               ArgumentError);
  EXPECT_THROW((void)rms_norm_backward(x.to(DType::kF64), x, weight, 0), ArgumentError);
  EXPECT_THROW((void)rms_norm_backward(x, x, weight, -1), ArgumentError);
}

}  // namespace
}  // namespace quire

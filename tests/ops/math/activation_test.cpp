#include "quire/ops/math/activation.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <cmath>
#include <limits>
#include <vector>

#include "quire/base/error.h"
#include "quire/base/thread_pool.h"
#include "tests/reference/activation.h"
#include "tests/support/f32_tensors.h"
#include "tests/support/gradient_check.h"

namespace quire {
namespace {

using test::f32_tensor;
using test::floats_of;
using test::normal_floats;
using testing::ThrowsMessage;

TEST(Swiglu, HandWorked) {
  const float one = static_cast<float>(1 / (1 + std::exp(-1.0)));
  const std::vector<float> out =
      floats_of(swiglu(f32_tensor({0, 1, 1, -100}, {2, 2}), f32_tensor({5, 2, -2, 3}, {2, 2})));
  EXPECT_EQ(out[0], 0.0f);
  EXPECT_FLOAT_EQ(out[1], 2 * one);
  EXPECT_FLOAT_EQ(out[2], -2 * one);
  EXPECT_EQ(out[3], 0.0f);
}

TEST(Swiglu, SiluIsWithinFourUlp) {
  std::vector<float> gates;
  for (float g = -87; g < 100; g += 0.0037f) gates.push_back(g);
  for (float g = 1e-38f; g < 1e-2f; g *= 1.7f) {
    gates.push_back(g);
    gates.push_back(-g);
  }
  const auto count = static_cast<std::int64_t>(gates.size());
  const std::vector<float> out =
      floats_of(swiglu(f32_tensor(gates, {1, count}),
                       f32_tensor(std::vector<float>(gates.size(), 1.0f), {1, count})));
  for (std::size_t i = 0; i < gates.size(); ++i) {
    const double truth = ref::silu(double{gates[i]});
    const double ulp = std::max(std::abs(truth) * 0x1p-23, 0x1p-149);
    // Below the smallest normal number only the distance counts.
    ASSERT_NEAR(out[i], truth, std::max(4 * ulp, 0x1p-126)) << gates[i];
  }
}

TEST(Swiglu, NoWorseThanTwiceTheNaiveLoop) {
  for (const std::int64_t F : {1, 15, 16, 17, 31, 32, 33, 1536}) {
    const std::vector<float> gate = normal_floats(3 * F, 1, 4), up = normal_floats(3 * F, 2, 4);
    const std::vector<float> out =
        floats_of(swiglu(f32_tensor(gate, {3, F}), f32_tensor(up, {3, F})));
    double ours = 0, yardstick = 0, largest = 0;
    for (std::size_t i = 0; i < out.size(); ++i) {
      const double truth = ref::swiglu(double{gate[i]}, double{up[i]});
      ours = std::max(ours, std::abs(double{out[i]} - truth));
      yardstick = std::max(yardstick, std::abs(double{ref::swiglu(gate[i], up[i])} - truth));
      largest = std::max(largest, std::abs(truth));
    }
    EXPECT_LE(ours, 2 * yardstick + 0x1p-24 * largest) << F;
  }
}

TEST(Swiglu, HugeGatesAndNan) {
  const float nan = std::numeric_limits<float>::quiet_NaN(),
              most = std::numeric_limits<float>::max();
  const std::vector<float> out = floats_of(
      swiglu(f32_tensor({most, -most, nan, 1}, {1, 4}), f32_tensor({1, 1, 1, nan}, {1, 4})));
  EXPECT_EQ(out[0], most);
  EXPECT_EQ(out[1], 0.0f);
  EXPECT_TRUE(std::isnan(out[2]));
  EXPECT_TRUE(std::isnan(out[3]));
}

TEST(Swiglu, BitsDependNeitherOnThreadsNorOnThePlace) {
  const Tensor gate_NF = f32_tensor(normal_floats(123 * 577, 3, 5), {123, 577}),
               up_NF = f32_tensor(normal_floats(123 * 577, 4), {123, 577});
  set_threads(1);
  const std::vector<float> one = floats_of(swiglu(gate_NF, up_NF));
  for (const int threads : {2, 7}) {
    set_threads(threads);
    EXPECT_EQ(floats_of(swiglu(gate_NF, up_NF)), one) << threads << " threads";
  }
  set_threads(1);
  const std::vector<float> row =
      floats_of(swiglu(gate_NF.slice(0, 60, 61), up_NF.slice(0, 60, 61)));
  EXPECT_EQ(row, (std::vector<float>(one.begin() + 60 * 577, one.begin() + 61 * 577)));
  const std::vector<float> columns =
      floats_of(swiglu(gate_NF.slice(1, 3, 9), up_NF.slice(1, 3, 9)));
  EXPECT_EQ(columns[0], one[3]);
  EXPECT_EQ(columns.back(), one[122 * 577 + 8]);
}

TEST(Swiglu, EmptyAndErrors) {
  const Tensor x_NF = Tensor::zeros({2, 3}, DType::kF32);
  EXPECT_EQ(
      swiglu(Tensor::empty({0, 3}, DType::kF32), Tensor::empty({0, 3}, DType::kF32)).elements(), 0);
  EXPECT_THAT(
      [&] {
        (void)swiglu(x_NF, Tensor::zeros({2, 4}, DType::kF32));
      },
      ThrowsMessage<ArgumentError>("gate_NF: F is 3, but up_NF has F = 4"));
  EXPECT_THAT([&] { (void)swiglu(x_NF.to(DType::kF16), x_NF); },
              ThrowsMessage<ArgumentError>("gate_NF is f16, expected f32 or f64"));
  EXPECT_THAT([&] { (void)swiglu(x_NF, x_NF.to(DType::kBF16)); },
              ThrowsMessage<ArgumentError>("up_NF is bf16, expected f32, the dtype of gate_NF"));
}

TEST(Activation, OTH_05_SwigluBackward) {
  using C = std::complex<double>;
  const Tensor gate = test::random_tensor({3, 37}, 1), up = test::random_tensor({3, 37}, 2),
               dout = test::random_tensor({3, 37}, 3);
  const SwigluGradients both = swiglu_backward(dout, gate, up);
  const auto reference = [](const std::vector<std::vector<C>>& in) {
    std::vector<C> out;
    for (std::size_t i = 0; i < in[0].size(); ++i)
      out.push_back(in[0][i] / (1.0 + std::exp(-in[0][i])) * in[1][i]);
    return out;
  };
  const std::vector<std::vector<double>> inputs = {test::values(gate), test::values(up)};
  test::expect_close(test::values(both.dgate_NF),
                     test::complex_step(reference, inputs, 0, test::values(dout)), "gate", 1e-14);
  test::expect_close(test::values(both.dup_NF),
                     test::complex_step(reference, inputs, 1, test::values(dout)), "up", 1e-14);
  test::expect_gradients([](const auto& in) { return swiglu(in[0], in[1]); }, {gate, up}, dout,
                         {both.dgate_NF, both.dup_NF});
  const SwigluGradients narrow =
      swiglu_backward(dout.to(DType::kF32), gate.to(DType::kF32), up.to(DType::kF32));
  test::expect_close(test::values(narrow.dgate_NF), test::values(both.dgate_NF), "f32", 5e-7);
  test::expect_close(test::values(narrow.dup_NF), test::values(both.dup_NF), "f32", 5e-7);
}

TEST(Activation, BackwardFarFromZero) {
  const Tensor gate = test::tensor_of({-1000, 1000}, {1, 2}), one = test::tensor_of({1, 1}, {1, 2});
  EXPECT_EQ(test::values(swiglu_backward(one, gate, one).dgate_NF), (std::vector<double>{0, 1}));
}

TEST(Activation, BackwardErrors) {
  const Tensor x = Tensor::zeros({2, 3}, DType::kF32);
  EXPECT_THROW((void)swiglu_backward(x, x, Tensor::zeros({2, 4}, DType::kF32)), ArgumentError);
  EXPECT_THROW((void)swiglu_backward(x.to(DType::kF64), x, x), ArgumentError);
}

}  // namespace
}  // namespace quire

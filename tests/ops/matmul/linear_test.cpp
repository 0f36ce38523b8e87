#include "quire/ops/matmul/linear.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include "quire/base/error.h"
#include "tests/support/gradient_check.h"

namespace quire {
namespace {

using test::expect_gradients;
using test::random_tensor;
using test::tensor_of;
using test::values;
using testing::ElementsAre;
using testing::ThrowsMessage;

TEST(Linear, ATT_08_WeightsAreOutByIn) {
  const Tensor x = tensor_of({1, 10}, {2}), weight = tensor_of({1, 2, 3, 4, 5, 6}, {3, 2});
  EXPECT_THAT(values(linear(x, weight)), ElementsAre(21, 43, 65));
  EXPECT_THAT(values(linear(x, weight, tensor_of({1, 1, 2}, {3}))), ElementsAre(22, 44, 67));
  EXPECT_EQ(linear(random_tensor({4, 5, 2}, 1), weight).shape(), Shape({4, 5, 3}));
}

TEST(Linear, ATT_08_StartsUniformInTheRootOfTheWidth) {
  Rng rng(1), again(1);
  const LinearWeights start = linear_init(100, 64, rng);
  EXPECT_EQ(start.weight_MD.shape(), Shape({100, 64}));
  EXPECT_EQ(start.bias_M.shape(), Shape({100}));
  double square = 0, largest = 0;
  for (const double w : values(start.weight_MD)) {
    square += w * w;
    largest = std::max(largest, std::abs(w));
  }
  EXPECT_LE(largest, 1.0 / 8);
  EXPECT_GT(largest, 0.99 / 8);
  // The variance of a uniform number in ±1/8 is 1/192; the standard error of 6400 draws is 1.1 %.
  EXPECT_NEAR(square / 6400, 1.0 / 192, 0.05 / 192);
  EXPECT_EQ(values(linear_init(100, 64, again).bias_M), values(start.bias_M));
}

TEST(Linear, Backward) {
  for (const Shape& shape : {Shape{4}, Shape{3, 4}, Shape{2, 3, 4}, Shape{0, 4}}) {
    const Tensor x = random_tensor(shape, 2), weight = random_tensor({5, 4}, 3),
                 bias = random_tensor({5}, 4);
    const Tensor dout = random_tensor(linear(x, weight).shape(), 5);
    const LinearGradients all = linear_backward(dout, x, weight);
    expect_gradients([](const auto& in) { return linear(in[0], in[1], in[2]); }, {x, weight, bias},
                     dout, {all.dx, all.dweight_MD, all.dbias_M});
  }
}

TEST(Linear, BackwardComputesOnlyWhatIsWanted) {
  const Tensor x = random_tensor({3, 4}, 6), weight = random_tensor({5, 4}, 7),
               dout = random_tensor({3, 5}, 8);
  const LinearGradients all = linear_backward(dout, x, weight);
  constexpr Want kYes = Want::kYes, kNo = Want::kNo;
  for (const LinearWants& wants :
       {LinearWants{kYes, kNo, kNo}, {kNo, kYes, kNo}, {kNo, kNo, kYes}, {kNo, kYes, kYes}}) {
    const LinearGradients some = linear_backward(dout, x, weight, wants);
    const std::vector<double> none;
    EXPECT_EQ(values(some.dx), wants.dx == kYes ? values(all.dx) : none);
    EXPECT_EQ(values(some.dweight_MD), wants.dweight_MD == kYes ? values(all.dweight_MD) : none);
    EXPECT_EQ(values(some.dbias_M), wants.dbias_M == kYes ? values(all.dbias_M) : none);
  }
}

TEST(Linear, Errors) {
  const Tensor x = Tensor::zeros({2, 3}, DType::kF32);
  EXPECT_THAT(
      [&] {
        (void)linear(x, Tensor::zeros({5, 4}, DType::kF32));
      },
      ThrowsMessage<ArgumentError>(
          "linear: the last dimension of x is 3, but weight_MD has D = 4"));
  EXPECT_THAT([&] { (void)linear(x, Tensor::zeros({3}, DType::kF32)); },
              ThrowsMessage<ArgumentError>("weight_MD: rank is 1, expected 2"));
  EXPECT_THAT(
      [&] {
        (void)linear(x, Tensor::zeros({5, 3}, DType::kF32), Tensor::zeros({4}, DType::kF32));
      },
      ThrowsMessage<ArgumentError>("bias_M: M is 4, but weight_MD has M = 5"));
  EXPECT_THROW((void)linear(x, Tensor::zeros({5, 3}, DType::kF64)), ArgumentError);
  EXPECT_THROW((void)linear(Tensor::zeros({}, DType::kF32), Tensor::zeros({5, 3}, DType::kF32)),
               ArgumentError);
  Rng rng(1);
  EXPECT_THROW((void)linear_init(0, 3, rng), ArgumentError);
  EXPECT_THROW((void)linear_init(3, 0, rng), ArgumentError);
}

}  // namespace
}  // namespace quire

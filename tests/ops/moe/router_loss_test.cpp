#include "quire/ops/moe/router_loss.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include "quire/base/error.h"
#include "tests/ops/moe/moe_case.h"

namespace quire {
namespace {

using test::expect_close;
using test::index_of;
using test::random_tensor;
using test::tensor_of;
using test::values;

TEST(RouterLoss, MOE_11_OneWhereEverythingIsEvenAndEWhereOneExpertGetsAll) {
  for (const DType dtype : {DType::kF64, DType::kF32, DType::kBF16}) {
    const Tensor even = Tensor::zeros({2, 4}, dtype);
    expect_close(values(balance_loss(even, index_of({0, 1, 2, 3}, {2, 2}))), {1}, "even", 1e-15);
    const Tensor one = tensor_of({90, 0, 0, 0, 90, 0, 0, 0}, {2, 4}, dtype);
    expect_close(values(balance_loss(one, index_of({0, 0}, {2, 1}))), {4}, "one", 1e-15);
    EXPECT_EQ(balance_loss(one, index_of({0, 0}, {2, 1})).rank(), 0);
  }
}

TEST(RouterLoss, MOE_11_ByHand) {
  const Tensor logits = tensor_of({0, std::log(3), 0, 0}, {2, 2});
  // Probabilities 1/4, 3/4 and 1/2, 1/2; expert 1 has three of four choices.
  expect_close(values(balance_loss(logits, index_of({1, 1, 0, 1}, {2, 2}))),
               {2 * (0.25 * 0.375 + 0.75 * 0.625)}, "balance", 1e-15);
  expect_close(values(z_loss(logits)), {(std::pow(std::log(4), 2) + std::pow(std::log(2), 2)) / 2},
               "z", 1e-15);
}

TEST(RouterLoss, MOE_11_TheGradientReachesTheLogits) {
  const Tensor logits = random_tensor({7, 5}, 1), dout = tensor_of({1.7}, {});
  const Tensor experts = test::random_experts(7, 2, 5, 2, true);
  test::expect_gradients([&](const auto& in) { return balance_loss(in[0], experts); }, {logits},
                         dout, {balance_loss_backward(dout, logits, experts)});
  test::expect_gradients([](const auto& in) { return z_loss(in[0]); }, {logits}, dout,
                         {z_loss_backward(dout, logits)});
  expect_close(values(balance_loss_backward(dout.to(DType::kF32), logits.to(DType::kF32), experts)),
               values(balance_loss_backward(dout, logits, experts)), "f32", 1e-6);
  expect_close(values(z_loss_backward(dout.to(DType::kF32), logits.to(DType::kF32))),
               values(z_loss_backward(dout, logits)), "f32", 1e-6);
}

TEST(RouterLoss, NoTokensAndErrors) {
  const Tensor none = Tensor::zeros({0, 3}, DType::kF32);
  EXPECT_EQ(values(balance_loss(none, Tensor::zeros({0, 2}, DType::kI64))), (std::vector{0.0}));
  EXPECT_EQ(values(z_loss(none)), (std::vector{0.0}));
  const Tensor logits = Tensor::zeros({2, 3}, DType::kF32);
  EXPECT_THROW((void)balance_loss(logits, index_of({0, 3}, {2, 1})), ArgumentError);
  EXPECT_THROW((void)balance_loss(logits, index_of({0}, {1, 1})), ArgumentError);
  EXPECT_THROW((void)z_loss(Tensor::zeros({3}, DType::kF32)), ArgumentError);
  EXPECT_THROW((void)z_loss_backward(Tensor::zeros({2}, DType::kF32), logits), ArgumentError);
  EXPECT_THROW((void)z_loss_backward(Tensor::zeros({}, DType::kF64), logits), ArgumentError);
}

}  // namespace
}  // namespace quire

#include "quire/grad/matmul.h"

#include <gtest/gtest.h>

#include "tests/support/tape_check.h"

namespace quire::grad {
namespace {

using test::expect_tape_gradients;
using test::index_of;
using test::random_tensor;
using test::values;

TEST(GradMatmul, ATT_09_EveryCase) {
  const std::pair<Shape, Shape> shapes[] = {
      {{4}, {4}},          {{3, 4}, {4, 2}},          {{4}, {4, 2}},      {{3, 4}, {4}},
      {{2, 3, 4}, {4, 2}}, {{2, 1, 3, 4}, {3, 4, 2}}, {{3, 4}, {2, 4, 2}}};
  for (const auto& [left, right] : shapes) {
    SCOPED_TRACE(to_string(left) + to_string(right));
    expect_tape_gradients([](const auto& in) { return matmul(in[0], in[1]); },
                          {random_tensor(left, 1), random_tensor(right, 2)});
  }
}

TEST(GradMatmul, Linear) {
  const Tensor x = random_tensor({2, 3, 4}, 3), weight = random_tensor({5, 4}, 4);
  expect_tape_gradients([](const auto& in) { return linear(in[0], in[1]); }, {x, weight});
  expect_tape_gradients([](const auto& in) { return linear(in[0], in[1], in[2]); },
                        {x, weight, random_tensor({5}, 5)});
}

// A constant weight is what a gradient of x needs; x itself may be overwritten then.
TEST(GradMatmul, OnlyTheSideThatNeedsAGradient) {
  const Tensor x = random_tensor({3, 4}, 7), weight = random_tensor({5, 4}, 8),
               bias = random_tensor({5}, 9), dout = random_tensor({3, 5}, 10);
  const auto run = [&](Needs for_x, Needs for_weight, Needs for_bias) {
    Tensor mine = x.to(DType::kF64), other = weight.to(DType::kF64);
    const std::vector<Var> in = {Var(mine, for_x), Var(other, for_weight), Var(bias, for_bias)};
    const Var out = linear(in[0], in[1], in[2]);
    if (for_weight == Needs::kNothing) mine.mutable_data<double>()[0] = 1e9;
    if (for_x == Needs::kNothing) other.mutable_data<double>()[0] = 1e9;
    backward(out, dout);
    return in;
  };
  const auto all = run(Needs::kGradient, Needs::kGradient, Needs::kGradient);
  const auto of_x = run(Needs::kGradient, Needs::kNothing, Needs::kNothing);
  const auto of_weight = run(Needs::kNothing, Needs::kGradient, Needs::kNothing);
  const auto of_bias = run(Needs::kNothing, Needs::kNothing, Needs::kGradient);
  EXPECT_EQ(values(of_x[0].gradient()), values(all[0].gradient()));
  EXPECT_EQ(values(of_weight[1].gradient()), values(all[1].gradient()));
  EXPECT_EQ(values(of_bias[2].gradient()), values(all[2].gradient()));
  for (const bool left : {true, false}) {
    Tensor fixed = (left ? weight.transpose(0, 1) : x).to(DType::kF64);
    const Var leaf(left ? x : weight.transpose(0, 1), Needs::kGradient);
    backward(left ? matmul(leaf, Var(fixed)) : matmul(Var(fixed), leaf), dout);
    EXPECT_EQ(values(leaf.gradient()),
              values(left ? all[0].gradient() : all[1].gradient().transpose(0, 1)));
  }
}

TEST(GradMatmul, Embedding) {
  const Tensor ids = index_of({1, 0, 1, 3}, {2, 2});
  expect_tape_gradients([&](const auto& in) { return embedding(ids, in[0]); },
                        {random_tensor({4, 3}, 6)});
}

}  // namespace
}  // namespace quire::grad

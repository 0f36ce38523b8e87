#include "quire/grad/matmul.h"

#include <gtest/gtest.h>

#include "tests/support/tape_check.h"

namespace quire::grad {
namespace {

using test::expect_tape_gradients;
using test::index_of;
using test::random_tensor;

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

TEST(GradMatmul, Embedding) {
  const Tensor ids = index_of({1, 0, 1, 3}, {2, 2});
  expect_tape_gradients([&](const auto& in) { return embedding(ids, in[0]); },
                        {random_tensor({4, 3}, 6)});
}

}  // namespace
}  // namespace quire::grad

#include "quire/grad/views.h"

#include <gtest/gtest.h>

#include "quire/base/error.h"
#include "quire/grad/math.h"
#include "tests/support/tape_check.h"

namespace quire::grad {
namespace {

using test::expect_second_gradients;
using test::expect_tape_gradients;
using test::random_tensor;
using test::VarFunction;

TEST(GradViews, TheTapeGivesTheSlopesAndTheirSlopes) {
  const Tensor x = random_tensor({2, 3, 4}, 1), flat = random_tensor({3, 1}, 2);
  const std::pair<VarFunction, Tensor> cases[] = {
      {[](const auto& in) { return transpose(mul(in[0], in[0]), 0, -1); }, x},
      {[](const auto& in) {
         return view(mul(in[0], in[0]), {4, 6});
       },
       x},
      {[](const auto& in) { return view(in[0], {-1}); }, x},
      {[](const auto& in) {
         return expand(mul(in[0], in[0]), {2, 3, 5});
       },
       flat},
      {[](const auto& in) { return slice(mul(in[0], in[0]), -1, 1, 3); }, x},
      {[](const auto& in) { return slice(in[0], 1, 0, 3); }, x},
      {[](const auto& in) { return slice(in[0], 0, 1, 1); }, x},
      {[](const auto& in) { return contiguous(transpose(mul(in[0], in[0]), 1, 2)); }, x},
      {[](const auto& in) {
         return view(contiguous(transpose(in[0], 1, 2)), {8, 3});
       },
       x}};
  for (const auto& [f, input] : cases) {
    expect_tape_gradients(f, {input});
    expect_second_gradients(f, {input});
  }
}

TEST(GradViews, ShareMemory) {
  const Var x(random_tensor({2, 3}, 3), Needs::kGradient);
  for (const Var& y : {transpose(x, 0, 1), view(x, {6}), expand(x, {4, 2, 3}), contiguous(x)})
    EXPECT_EQ(y.value().data<double>(), x.value().data<double>());
  EXPECT_EQ(slice(x, 1, 1, 2).value().data<double>(), x.value().data<double>() + 1);
}

TEST(GradViews, ErrorsAreThoseOfTheTensor) {
  const Var x(random_tensor({2, 3}, 4), Needs::kGradient);
  EXPECT_THROW((void)view(x, {4}), ArgumentError);
  EXPECT_THROW((void)transpose(x, 0, 2), ArgumentError);
  EXPECT_THROW((void)slice(x, 0, 1, 3), ArgumentError);
  EXPECT_THROW((void)expand(x, {2, 4}), ArgumentError);
}

}  // namespace
}  // namespace quire::grad

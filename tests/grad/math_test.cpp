#include "quire/grad/math.h"

#include <gtest/gtest.h>

#include "quire/base/error.h"
#include "tests/support/tape_check.h"

namespace quire::grad {
namespace {

using test::expect_second_gradients;
using test::expect_tape_gradients;
using test::index_of;
using test::random_tensor;
using test::values;
using test::VarFunction;

struct Case {
  const char* name;
  VarFunction f;
  std::vector<Tensor> inputs;
};

// Away from 0, where a division has its pole.
Tensor positive(Shape shape, std::uint64_t seed) {
  return quire::add(quire::exp(random_tensor(std::move(shape), seed)), 0.5);
}

std::vector<Case> twice_differentiable() {
  const Tensor a = random_tensor({2, 3, 4}, 1), b = random_tensor({3, 1}, 2);
  return {
      {"add", [](const auto& in) { return add(in[0], in[1]); }, {a, b}},
      {"sub", [](const auto& in) { return sub(in[1], in[0]); }, {a, b}},
      {"mul", [](const auto& in) { return mul(in[0], in[1]); }, {a, b}},
      {"mul itself", [](const auto& in) { return mul(in[0], mul(in[0], in[0])); }, {b}},
      {"numbers", [](const auto& in) { return mul(add(in[0], 2.5), -1.5); }, {a}},
      {"neg", [](const auto& in) { return neg(in[0]); }, {a}},
      {"IDX_24 sum",
       [](const auto& in) {
         return sum(mul(in[0], in[0]), {0, 2});
       },
       {a}},
      {"sum kept", [](const auto& in) { return sum(mul(in[0], in[0]), {-2}, Axis::kKeep); }, {a}},
      {"sum of all", [](const auto& in) { return sum(mul(in[0], in[0])); }, {a}},
      {"IDX_24 mean", [](const auto& in) { return mean(mul(in[0], in[0]), {1}); }, {a}},
      {"mean of all", [](const auto& in) { return mean(mul(in[0], in[0])); }, {a}},
      {"sum_to",
       [](const auto& in) {
         return sum_to(mul(in[0], in[0]), {3, 1});
       },
       {a}},
      {"cat",
       [](const auto& in) {
         const std::vector<Var> parts = {in[0], mul(in[1], in[1]), in[0]};
         return cat(parts, -1);
       },
       {b, random_tensor({3, 2}, 3)}},
  };
}

std::vector<Case> once_differentiable() {
  const Tensor a = random_tensor({2, 3, 4}, 1), rows = random_tensor({5, 6}, 4);
  return {
      {"div", [](const auto& in) { return div(in[0], in[1]); }, {a, positive({3, 1}, 2)}},
      {"exp", [](const auto& in) { return exp(in[0]); }, {a}},
      {"clamp_min", [](const auto& in) { return clamp_min(in[0], 0.123); }, {a}},
      {"norm", [](const auto& in) { return norm(in[0], 1); }, {a}},
      {"norm kept", [](const auto& in) { return norm(in[0], -1, Axis::kKeep); }, {a}},
      {"max", [](const auto& in) { return max(in[0], 2).values; }, {a}},
      {"max kept", [](const auto& in) { return max(in[0], 0, Axis::kKeep).values; }, {a}},
      {"softmax", [](const auto& in) { return softmax(in[0], 1); }, {a}},
      {"rms_norm",
       [](const auto& in) { return rms_norm(in[0], in[1], 0.1); },
       {rows, random_tensor({6}, 5)}},
      {"swiglu",
       [](const auto& in) { return swiglu(in[0], in[1]); },
       {rows, random_tensor({5, 6}, 6)}},
      {"cross_entropy",
       [](const auto& in) {
         return cross_entropy(in[0], index_of({0, 5, -100, 2, 5}, {5}));
       },
       {rows}},
  };
}

TEST(GradMath, OTH_05_TheTapeGivesTheSlopes) {
  for (const auto& list : {twice_differentiable(), once_differentiable()}) {
    for (const Case& c : list) {
      SCOPED_TRACE(c.name);
      expect_tape_gradients(c.f, c.inputs);
    }
  }
}

TEST(GradMath, IDX_24_SlopesOfSlopes) {
  for (const Case& c : twice_differentiable()) {
    SCOPED_TRACE(c.name);
    expect_second_gradients(c.f, c.inputs);
  }
}

TEST(GradMath, OtherSlopesOfSlopesAreRefused) {
  for (const Case& c : once_differentiable()) {
    SCOPED_TRACE(c.name);
    const std::vector<Var> vars = test::leaves(c.inputs);
    const Var out = c.f(vars), dout(random_tensor(out.shape(), 7), Needs::kGradient);
    const Var first = gradients(out, dout, vars, Graph::kCreate)[0];
    EXPECT_THROW(backward(sum(first)), ArgumentError);
  }
}

TEST(GradMath, OnlyOneSideMayNeedAGradient) {
  const Tensor a = random_tensor({2, 3}, 8), b = positive({2, 3}, 9);
  using Op = Var (*)(const Var&, const Var&);
  for (const Op op : {Op(add), Op(sub), Op(mul), Op(div), Op(swiglu)}) {
    const Var left(a, Needs::kGradient), right(b, Needs::kGradient);
    const Var both = op(left, right), one = op(Var(a, Needs::kGradient), Var(b));
    backward(both, b);
    const Var only_left(a, Needs::kGradient), only_right(b, Needs::kGradient);
    backward(op(only_left, Var(b)), b);
    backward(op(Var(a), only_right), b);
    EXPECT_EQ(values(only_left.gradient()), values(left.gradient()));
    EXPECT_EQ(values(only_right.gradient()), values(right.gradient()));
  }
}

TEST(GradMath, ShortTypes) {
  for (const DType dtype : {DType::kF32, DType::kBF16, DType::kF16}) {
    const Var x(random_tensor({4, 5}, 10, dtype), Needs::kGradient);
    backward(mean(softmax(mul(exp(x), x), 1)));
    EXPECT_EQ(x.gradient().dtype(), dtype);
    EXPECT_EQ(x.gradient().shape(), x.shape());
  }
}

}  // namespace
}  // namespace quire::grad

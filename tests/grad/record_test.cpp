#include "quire/grad/record.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include "quire/base/error.h"
#include "quire/grad/math.h"
#include "quire/grad/tape.h"
#include "tests/support/gradient_check.h"

namespace quire::grad {
namespace {

using test::tensor_of;
using test::values;
using testing::ElementsAre;
using testing::HasSubstr;
using testing::ThrowsMessage;

Var leaf(std::vector<double> numbers) {
  return Var(tensor_of(numbers, {static_cast<std::int64_t>(numbers.size())}), Needs::kGradient);
}

// An op of one's own: three times x.
Var triple(const Var& x) {
  Tensor out = quire::mul(x.value(), 3.0);
  if (!recording(x)) return Var(out);
  return record_once("triple", out, {x},
                     [](const Tensor& dout) { return Tensors{quire::mul(dout, 3.0)}; });
}

TEST(Record, OnlyWhatNeedsAGradient) {
  const Var x = leaf({1}), constant(tensor_of({1}, {1}));
  EXPECT_TRUE(recording(x, constant));
  EXPECT_FALSE(recording(constant));
  EXPECT_FALSE(triple(constant).needs_gradient());
  const NoGradient guard;
  EXPECT_FALSE(recording(x));
  EXPECT_FALSE(triple(x).needs_gradient());
}

TEST(Record, AnOpOfOnesOwn) {
  const Var x = leaf({1, 2});
  backward(sum(triple(triple(x))));
  EXPECT_THAT(values(x.gradient()), ElementsAre(9, 9));
}

TEST(Record, ASecondDerivativeThatAnOpDoesNotHaveIsRefused) {
  const Var x = leaf({1, 2}), out = triple(x);
  const std::vector<Var> inputs = {x};
  const Var dout = leaf({1, 1});
  const std::vector<Var> first = gradients(out, dout, inputs, Graph::kCreate);
  EXPECT_THAT(values(first[0].value()), ElementsAre(3, 3));
  EXPECT_THAT([&] { backward(sum(first[0])); },
              ThrowsMessage<ArgumentError>(HasSubstr("triple: its backward has no derivative")));
}

TEST(Record, OTH_08_AnOverwrittenTensorIsAnErrorNotAWrongNumber) {
  Tensor memory = tensor_of({1, 2}, {2});
  const Var x(memory, Needs::kGradient);
  const Var out = sum(mul(x, x));
  memory.mutable_data<double>()[0] = 5;
  EXPECT_THAT([&] { backward(out); },
              ThrowsMessage<ArgumentError>(HasSubstr("mul: the tensor of shape [2] that backward "
                                                     "needs was overwritten since (version ")));
  EXPECT_FALSE(x.has_gradient());
}

TEST(Record, OTH_08_AnOverwrittenOutputIsAnErrorToo) {
  const Var x = leaf({0, 1});
  const Var y = exp(x);
  Tensor memory = y.value();
  memory.mutable_data<double>()[0] = 5;
  EXPECT_THAT([&] { backward(sum(y)); }, ThrowsMessage<ArgumentError>(HasSubstr("exp: ")));
}

TEST(Record, AViewSharesTheVersion) {
  Tensor memory = tensor_of({1, 2, 3, 4}, {4});
  const Var x(memory.slice(0, 0, 2), Needs::kGradient);
  const Var out = sum(mul(x, x));
  memory.mutable_data<double>()[3] = 5;
  EXPECT_THROW(backward(out), ArgumentError);
}

TEST(Record, WhatAnOpDoesNotNeedMayBeOverwritten) {
  Tensor memory = tensor_of({1, 2}, {2});
  const Var x(memory, Needs::kGradient);
  const Var out = sum(add(x, 1.0));
  memory.mutable_data<double>()[0] = 5;
  backward(out);
  EXPECT_THAT(values(x.gradient()), ElementsAre(1, 1));
}

TEST(Record, AWrongNumberOfGradientsIsNamed) {
  const Var x = leaf({1, 2});
  const Var out = record("odd", x.value(), {x}, [](const Var&) { return Vars{}; });
  EXPECT_THAT([&] { backward(sum(out)); },
              ThrowsMessage<ArgumentError>("odd: backward returned 0 gradients for 1 inputs"));
  const Var wrong = record("odd", x.value(), {x}, [](const Var& dout) { return Vars{sum(dout)}; });
  EXPECT_THAT([&] { backward(sum(wrong)); },
              ThrowsMessage<ArgumentError>(
                  "odd: the gradient of input 0 has shape [], but the value has shape [2]"));
}

}  // namespace
}  // namespace quire::grad

#include "quire/grad/record.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include "quire/base/error.h"
#include "quire/grad/math.h"
#include "quire/grad/tape.h"
#include "quire/ops/math/arithmetic.h"
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

/// 2x and 3x from one call; what its backward was called with goes into `calls`.
std::vector<Var> twice_and_thrice(const Var& x, std::vector<std::vector<double>>& calls) {
  return record_once("both", Tensors{quire::mul(x.value(), 2.0), quire::mul(x.value(), 3.0)}, {x},
                     [&calls](std::span<const Tensor> douts) {
                       std::vector<double> call;
                       for (const Tensor& dout : douts) {
                         const bool none = dout.rank() == 1 && dout.elements() == 0;
                         call.push_back(none ? -1 : values(dout)[0]);
                       }
                       calls.push_back(call);
                       const auto part = [&](std::size_t i, double by) {
                         return quire::full({1}, call[i] < 0 ? 0 : by * call[i], DType::kF64);
                       };
                       return Tensors{quire::add(part(0, 2), part(1, 3))};
                     });
}

TEST(Record, SeveralResultsHaveOneCallOfTheirBackward) {
  std::vector<std::vector<double>> calls;
  const Var x = leaf({5});
  // The results meet others on their way, one more often than the other, the earlier one last.
  const std::vector<Var> both = twice_and_thrice(x, calls);
  const Var third = triple(both[1]);
  backward(sum(add(add(third, both[1]), add(third, mul(both[0], 7.0)))));
  EXPECT_THAT(calls, ElementsAre(ElementsAre(7, 7)));
  EXPECT_THAT(values(x.gradient()), ElementsAre(2 * 7 + 3 * 7));
}

TEST(Record, AResultThatNobodyUsesHasNoGradient) {
  for (const std::size_t used : {0u, 1u}) {
    std::vector<std::vector<double>> calls;
    const Var x = leaf({5});
    backward(sum(twice_and_thrice(x, calls)[used]));
    EXPECT_THAT(calls, ElementsAre(used == 0 ? ElementsAre(1, -1) : ElementsAre(-1, 1)));
    EXPECT_THAT(values(x.gradient()), ElementsAre(used == 0 ? 2 : 3));
  }
}

TEST(Record, AResultThatIsUsedWhereNoGradientComesFromCountsAsNone) {
  std::vector<std::vector<double>> calls;
  const Var x = leaf({5});
  const std::vector<Var> both = twice_and_thrice(x, calls);
  const Var dead =
      record("dead", both[1].value(), {both[1]}, [](const Var&) { return Vars{Var()}; });
  backward(sum(add(both[0], dead)));
  EXPECT_THAT(calls, ElementsAre(ElementsAre(1, -1)));
  const Var alone =
      record("dead", both[1].value(), {both[1]}, [](const Var&) { return Vars{Var()}; });
  backward(sum(alone));
  EXPECT_EQ(calls.size(), 1u) << "no gradient came to either result";
}

TEST(Record, SeveralResultsKeepTheirTapeTogether) {
  std::vector<std::vector<double>> calls;
  const Var x = leaf({5});
  const std::vector<Var> both = twice_and_thrice(x, calls);
  Var second = both[1];
  second.retain_gradient();
  backward(sum(add(both[0], both[1])), Graph::kRetain);
  EXPECT_THAT(values(second.gradient()), ElementsAre(1));
  backward(sum(both[0]));
  EXPECT_THAT(calls, ElementsAre(ElementsAre(1, 1), ElementsAre(1, -1)));
  EXPECT_THAT(values(x.gradient()), ElementsAre(7));
  EXPECT_THAT([&] { backward(sum(both[1])); },
              ThrowsMessage<ArgumentError>(HasSubstr("both: its saved tensors were freed")));
  // One derivative only, whichever result it comes from.
  const std::vector<Var> again = twice_and_thrice(x, calls), inputs = {x};
  const Var dout = leaf({1});
  const Var first = gradients(again[1], dout, inputs, Graph::kCreate)[0];
  EXPECT_THAT([&] { backward(sum(first)); },
              ThrowsMessage<ArgumentError>(HasSubstr("both: its backward has no derivative")));
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

#include "quire/grad/tape.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <thread>

#include "quire/base/error.h"
#include "quire/base/thread_pool.h"
#include "quire/grad/math.h"
#include "quire/grad/record.h"
#include "quire/grad/views.h"
#include "quire/ops/math/arithmetic.h"
#include "tests/support/gradient_check.h"

namespace quire::grad {
namespace {

using test::random_tensor;
using test::tensor_of;
using test::values;
using testing::ElementsAre;
using testing::HasSubstr;
using testing::ThrowsMessage;

Var leaf(std::vector<double> numbers) {
  return Var(tensor_of(numbers, {static_cast<std::int64_t>(numbers.size())}), Needs::kGradient);
}

TEST(Tape, OTH_08_EveryNodeRunsOnceAfterAllThatUseIt) {
  // y is used by z and by the sum: its own backward must see both gradients together.
  std::vector<std::string> order;
  const auto noted = [&](const char* name, const Var& x) {
    return record(name, quire::mul(x.value(), 2.0), {x}, [&order, name](const Var& dout) {
      order.emplace_back(name);
      return Vars{mul(dout, 2.0)};
    });
  };
  const Var x = leaf({1});
  const Var y = noted("y", x);
  const Var z = noted("z", y);
  const Var w = noted("w", y);
  backward(sum(add(add(z, w), y)));
  EXPECT_THAT(order, ElementsAre("w", "z", "y"));
  EXPECT_THAT(values(x.gradient()), ElementsAre(10));  // 2·(2 + 2 + 1)
}

TEST(Tape, OTH_08_AValueUsedTwiceGetsBoth) {
  const Var x = leaf({3});
  backward(sum(mul(x, x)));
  EXPECT_THAT(values(x.gradient()), ElementsAre(6));
  const Var y = leaf({3});
  backward(sum(mul(mul(y, y), mul(y, y))));
  EXPECT_THAT(values(y.gradient()), ElementsAre(108));
}

TEST(Tape, OTH_08_ADeepLadderOfSharedValuesIsLinear) {
  // Each rung uses the one below twice: 2^60 paths, 60 nodes.
  const Var x = leaf({1});
  Var y = x;
  for (int i = 0; i < 60; ++i) y = add(y, y);
  backward(sum(y));
  EXPECT_THAT(values(x.gradient()), ElementsAre(0x1p60));
}

TEST(Tape, ALongChainNeedsNoStack) {
  const Var x = leaf({1});
  {
    Var y = x;
    for (int i = 0; i < 300000; ++i) y = add(y, 1.0);
    backward(sum(y), Graph::kRetain);
  }
  EXPECT_THAT(values(x.gradient()), ElementsAre(1));
}

TEST(Tape, OTH_08_RetainTwiceIsDoubleAndFreedIsAnError) {
  const Var x = leaf({2, 5});
  const Var out = sum(mul(x, x));
  backward(out, Graph::kRetain);
  EXPECT_THAT(values(x.gradient()), ElementsAre(4, 10));
  backward(out);
  EXPECT_THAT(values(x.gradient()), ElementsAre(8, 20));
  EXPECT_THAT([&] { backward(out); },
              ThrowsMessage<ArgumentError>(HasSubstr("freed by an earlier backward pass")));
  EXPECT_THAT(values(x.gradient()), ElementsAre(8, 20));
}

TEST(Tape, OTH_08_NoGradientRecordsNothing) {
  const Var x = leaf({1, 2});
  {
    const NoGradient outer;
    { const NoGradient inner; }
    EXPECT_FALSE(mul(x, x).needs_gradient());
    std::thread([&] { EXPECT_TRUE(mul(x, x).needs_gradient()); }).join();
  }
  EXPECT_TRUE(mul(x, x).needs_gradient());
}

TEST(Tape, BackwardLeavesRecordingAsItWas) {
  const Var x = leaf({1, 2});
  const Var out = sum(mul(x, x));
  {
    const NoGradient guard;
    backward(out);
    EXPECT_FALSE(recording_enabled());
  }
  EXPECT_THROW(backward(out), ArgumentError);
  EXPECT_TRUE(recording_enabled());
  EXPECT_THAT(values(x.gradient()), ElementsAre(2, 4));
}

TEST(Tape, OTH_08_NothingLeaksAndFreedTapesLetGo) {
  const std::int64_t before = allocated_bytes();
  {
    const Var x(random_tensor({1000}, 1), Needs::kGradient);
    const std::int64_t with_leaf = allocated_bytes();
    {
      Var out = sum(exp(mul(x, x)));
      EXPECT_GE(allocated_bytes(), with_leaf + 8000);  // what exp saved
      backward(out);
      // The saved tensors are gone with the pass; the leaf's gradient and the loss are left.
      EXPECT_LE(allocated_bytes(), with_leaf + 8000 + 64);
    }
    { const Var dropped = exp(exp(x)); }
    EXPECT_LE(allocated_bytes(), with_leaf + 8000);
  }
  EXPECT_EQ(allocated_bytes(), before);
}

TEST(Tape, ATapeThatCreatedAnotherLeaksNothing) {
  const std::int64_t before = allocated_bytes();
  {
    const Var x(random_tensor({100}, 2), Needs::kGradient);
    const std::vector<Var> inputs = {x};
    const Var out = sum(mul(mul(x, x), x));
    const Var one(full({}, 1, DType::kF64));
    const std::vector<Var> first = gradients(out, one, inputs, Graph::kCreate);
    backward(sum(first[0]));
    test::expect_close(values(x.gradient()), values(quire::mul(x.value(), 6.0)), "6x");
  }
  EXPECT_EQ(allocated_bytes(), before);
}

TEST(Tape, NothingOnTheTapeCostsNoMemory) {
  const Var x(random_tensor({1000}, 3)), y(random_tensor({1000}, 4));
  const std::int64_t before = allocated_bytes();
  const Var out = mul(exp(x), y);
  EXPECT_EQ(out.slot(), nullptr);
  EXPECT_EQ(allocated_bytes(), before + 8000);
}

TEST(Tape, GradientsOfAnyVarAreReturnedAndAddedNowhere) {
  const Var x = leaf({2, 3}), unused = leaf({1, 1, 1});
  const Var y = mul(x, x);
  const Var out = sum(mul(y, 2.0));
  const std::vector<Var> inputs = {y, x, unused};
  const Var dout(full({}, 10, DType::kF64));
  const std::vector<Var> found = gradients(out, dout, inputs);
  EXPECT_THAT(values(found[0].value()), ElementsAre(20, 20));
  EXPECT_THAT(values(found[1].value()), ElementsAre(80, 120));
  EXPECT_THAT(values(found[2].value()), ElementsAre(0, 0, 0));
  EXPECT_FALSE(x.has_gradient());
  EXPECT_FALSE(y.has_gradient());
}

TEST(Tape, TheSameProgramGivesTheSameBits) {
  const auto run = [] {
    const Var x(random_tensor({300, 401}, 5, DType::kF32), Needs::kGradient);
    Var y = softmax(x, 1);
    for (int i = 0; i < 5; ++i) y = add(mul(y, exp(x)), transpose(transpose(y, 0, 1), 0, 1));
    backward(mean(mul(y, y)));
    return values(x.gradient());
  };
  set_threads(1);
  const std::vector<double> one = run();
  for (const int threads : {1, 2, 7}) {
    set_threads(threads);
    EXPECT_EQ(run(), one) << threads << " threads";
  }
}

TEST(Tape, AFailedPassChangesNoGradient) {
  const Var x = leaf({1, 2}), y = leaf({3, 4});
  const Var bad = record_once("bad", mul(x, 1.0).value(), {x},
                              [](const Tensor&) -> Tensors { throw ArgumentError("broken"); });
  EXPECT_THAT([&] { backward(sum(add(bad, y))); }, ThrowsMessage<ArgumentError>("broken"));
  EXPECT_FALSE(x.has_gradient());
  EXPECT_FALSE(y.has_gradient());
}

TEST(Tape, Errors) {
  const Var x = leaf({1, 2}), constant(tensor_of({1}, {1}));
  EXPECT_THAT([&] { backward(mul(x, x)); },
              ThrowsMessage<ArgumentError>(HasSubstr("without dout it must have one element")));
  EXPECT_THAT([&] { backward(constant); },
              ThrowsMessage<ArgumentError>(HasSubstr("depends on nothing that needs a gradient")));
  EXPECT_THAT(
      [&] { backward(mul(x, x), tensor_of({1}, {1})); },
      ThrowsMessage<ArgumentError>("backward: dout has shape [1], but the value has shape [2]"));
  EXPECT_THROW(backward(mul(x, x), Tensor::zeros({2}, DType::kF32)), ArgumentError);
  const std::vector<Var> inputs = {constant};
  EXPECT_THAT([&] { (void)gradients(sum(x), Var(full({}, 1, DType::kF64)), inputs); },
              ThrowsMessage<ArgumentError>("gradients: input 0 needs no gradient"));
}

}  // namespace
}  // namespace quire::grad

#include "quire/grad/var.h"

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

Var leaf(const std::vector<double>& numbers) {
  return Var(tensor_of(numbers, {static_cast<std::int64_t>(numbers.size())}), Needs::kGradient);
}

TEST(Var, AConstantHasNoPlaceAndALeafDoes) {
  const Var constant(tensor_of({1}, {1})), empty;
  EXPECT_FALSE(constant.needs_gradient());
  EXPECT_FALSE(empty.needs_gradient());
  EXPECT_EQ(empty.value().elements(), 0);
  const Var x = leaf({1, 2}), copy = x;
  EXPECT_TRUE(x.needs_gradient());
  EXPECT_FALSE(x.has_gradient());
  backward(sum(mul(copy, copy)));
  EXPECT_THAT(values(x.gradient()), ElementsAre(2, 4));
}

TEST(Var, GradientsAddUpUntilCleared) {
  Var x = leaf({1, 2});
  backward(sum(x));
  backward(sum(mul(x, 3.0)));
  EXPECT_THAT(values(x.gradient()), ElementsAre(4, 4));
  x.clear_gradient();
  EXPECT_FALSE(x.has_gradient());
  backward(sum(x));
  EXPECT_THAT(values(x.gradient()), ElementsAre(1, 1));
}

TEST(Var, OTH_08_Detach) {
  const Var x = leaf({2, 3});
  const Var cut = mul(x, x).detach();
  EXPECT_FALSE(cut.needs_gradient());
  backward(sum(mul(cut, x)));
  EXPECT_THAT(values(x.gradient()), ElementsAre(4, 9));
}

TEST(Var, OTH_08_RetainedGradients) {
  const Var x = leaf({2, 3});
  Var kept = mul(x, 2.0);
  const Var other = mul(x, 5.0);
  kept.retain_gradient();
  backward(sum(mul(kept, other)), Graph::kRetain);
  EXPECT_THAT(values(kept.gradient()), ElementsAre(10, 15));
  EXPECT_FALSE(other.has_gradient());
  EXPECT_THAT([&] { (void)other.gradient(); },
              ThrowsMessage<ArgumentError>(HasSubstr("ask retain_gradient() first")));
}

TEST(Var, OTH_08_HooksSeeTheWholeGradientOnce) {
  Var x = leaf({1, 2});
  std::vector<std::vector<double>> seen;
  x.add_hook([&](const Var& gradient) {
    seen.push_back(values(gradient.value()));
    return mul(gradient, 10.0);
  });
  x.add_hook([](const Var& gradient) { return add(gradient, 1.0); });
  backward(sum(add(x, mul(x, x))));
  ASSERT_EQ(seen.size(), 1u);
  EXPECT_THAT(seen[0], ElementsAre(3, 5));
  EXPECT_THAT(values(x.gradient()), ElementsAre(31, 51));
}

TEST(Var, OTH_08_AHookInTheMiddleChangesWhatFlowsOn) {
  const Var x = leaf({1, 2});
  Var y = mul(x, 2.0);
  y.add_hook([](const Var& gradient) { return neg(gradient); });
  backward(sum(y));
  EXPECT_THAT(values(x.gradient()), ElementsAre(-2, -2));
}

TEST(Var, AHookMayNotChangeTheShape) {
  Var x = leaf({1, 2});
  x.add_hook([](const Var& gradient) { return sum(gradient); });
  EXPECT_THAT([&] { backward(sum(x)); },
              ThrowsMessage<ArgumentError>(
                  "what a hook returns has shape [], but the value has shape [2]"));
  EXPECT_FALSE(x.has_gradient());
}

TEST(Var, Errors) {
  EXPECT_THAT([] { Var(Tensor::zeros({2}, DType::kI64), Needs::kGradient); },
              ThrowsMessage<ArgumentError>(HasSubstr("is i64, expected f64, f32, bf16 or f16")));
  Var constant(tensor_of({1}, {1}));
  EXPECT_THROW((void)constant.gradient(), ArgumentError);
  EXPECT_THROW(constant.retain_gradient(), ArgumentError);
  EXPECT_THROW(constant.clear_gradient(), ArgumentError);
  EXPECT_THROW(constant.add_hook([](const Var& gradient) { return gradient; }), ArgumentError);
  EXPECT_THAT([] { (void)leaf({1}).gradient(); },
              ThrowsMessage<ArgumentError>(HasSubstr("no backward pass has reached")));
}

}  // namespace
}  // namespace quire::grad

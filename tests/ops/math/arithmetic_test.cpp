#include "quire/ops/math/arithmetic.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <limits>

#include "quire/base/error.h"
#include "quire/base/thread_pool.h"
#include "tests/support/gradient_check.h"

namespace quire {
namespace {

using test::expect_gradients;
using test::random_tensor;
using test::tensor_of;
using test::values;
using testing::ElementsAre;
using testing::HasSubstr;
using testing::ThrowsMessage;

constexpr DType kFloating[] = {DType::kF64, DType::kF32, DType::kBF16, DType::kF16};

TEST(Arithmetic, HandWorkedInEveryDtype) {
  for (const DType dtype : kFloating) {
    const Tensor a = tensor_of({1, -2, 3, 4}, {2, 2}, dtype), b = tensor_of({2, 4}, {2}, dtype);
    EXPECT_THAT(values(add(a, b)), ElementsAre(3, 2, 5, 8));
    EXPECT_THAT(values(sub(a, b)), ElementsAre(-1, -6, 1, 0));
    EXPECT_THAT(values(mul(a, b)), ElementsAre(2, -8, 6, 16));
    EXPECT_THAT(values(div(a, b)), ElementsAre(0.5, -0.5, 1.5, 1));
    EXPECT_THAT(values(add(a, 0.5)), ElementsAre(1.5, -1.5, 3.5, 4.5));
    EXPECT_THAT(values(mul(a, -2.0)), ElementsAre(-2, 4, -6, -8));
    EXPECT_THAT(values(neg(a)), ElementsAre(-1, 2, -3, -4));
    EXPECT_THAT(values(clamp_min(a, 1.5)), ElementsAre(1.5, 1.5, 3, 4));
    EXPECT_THAT(values(exp(tensor_of({0}, {}, dtype))), ElementsAre(1));
    EXPECT_THAT(values(full({3}, 0.25, dtype)), ElementsAre(0.25, 0.25, 0.25));
    EXPECT_EQ(add(a, b).dtype(), dtype);
  }
}

// Every element by itself, at the coordinates that broadcasting gives it.
double element(const Tensor& x, const Shape& shape, std::int64_t at) {
  return values(x.expand(shape))[static_cast<std::size_t>(at)];
}

TEST(Arithmetic, BroadcastsEveryWay) {
  const std::pair<Shape, Shape> cases[] = {{{}, {}},
                                           {{3}, {}},
                                           {{}, {2, 3}},
                                           {{1}, {5}},
                                           {{4, 1}, {1, 3}},
                                           {{2, 1, 3}, {4, 1}},
                                           {{2, 3, 4}, {4}},
                                           {{2, 3, 4}, {3, 1}},
                                           {{2, 3, 4}, {2, 1, 1}},
                                           {{0, 3}, {1, 3}},
                                           {{1}, {0}},
                                           {{33}, {33}},
                                           {{2, 1, 2, 1}, {1, 2, 1, 2}},
                                           {{7, 65}, {65}}};
  for (const auto& [left, right] : cases) {
    const Tensor a = random_tensor(left, 1), b = random_tensor(right, 2);
    const Tensor out = sub(a, b);
    const std::vector<double> found = values(out);
    for (std::int64_t i = 0; i < out.elements(); ++i) {
      EXPECT_EQ(found[static_cast<std::size_t>(i)],
                element(a, out.shape(), i) - element(b, out.shape(), i))
          << to_string(left) << " and " << to_string(right) << " at " << i;
    }
  }
  EXPECT_EQ(add(random_tensor({0, 3}, 1), random_tensor({1, 3}, 2)).shape(), Shape({0, 3}));
}

TEST(Arithmetic, TakesAnyStrides) {
  const Tensor a = random_tensor({6, 5}, 3).transpose(0, 1).slice(0, 1, 4),
               b = random_tensor({1, 6}, 4).expand({3, 6});
  EXPECT_EQ(values(mul(a, b)), values(mul(a.contiguous_copy(), b.contiguous_copy())));
  EXPECT_EQ(values(neg(a)), values(neg(a.contiguous_copy())));
}

TEST(Arithmetic, TheSameBitsWithAnyNumberOfThreads) {
  const Tensor a = random_tensor({300, 401}, 5, DType::kF32),
               b = random_tensor({401}, 6, DType::kF32);
  set_threads(1);
  const std::vector<double> one = values(div(exp(a), b));
  for (const int threads : {2, 7}) {
    set_threads(threads);
    EXPECT_EQ(values(div(exp(a), b)), one) << threads << " threads";
  }
}

TEST(Arithmetic, ShortTypesRoundOnce) {
  const Tensor a = tensor_of({1}, {1}, DType::kBF16);
  // 1 + 1/256 is half way between two bf16 numbers: to even.
  EXPECT_EQ(values(add(a, 1.0 / 256))[0], 1);
  EXPECT_EQ(values(add(a, 3.0 / 256))[0], 1 + 4.0 / 256);
}

TEST(Arithmetic, NansStay) {
  const double nan = std::numeric_limits<double>::quiet_NaN();
  const Tensor x = tensor_of({nan, 1}, {2});
  EXPECT_TRUE(std::isnan(values(clamp_min(x, 0))[0]));
  EXPECT_EQ(values(clamp_min_backward(tensor_of({5, 5}, {2}), x, 1.0))[0], 0);
  EXPECT_EQ(values(clamp_min_backward(tensor_of({5, 5}, {2}), x, 1.0))[1], 5);  // at the bound
}

TEST(Arithmetic, Backwards) {
  const Tensor a = random_tensor({2, 3, 4}, 7), b = add(exp(random_tensor({3, 1}, 8)), 0.5);
  const Tensor dout = random_tensor({2, 3, 4}, 9);
  const DivGradients by_div = div_backward(dout, a, b);
  expect_gradients([](const auto& in) { return div(in[0], in[1]); }, {a, b}, dout,
                   {by_div.da, by_div.db});
  const Tensor far = add(a, 10.0);
  const DivGradients turned = div_backward(dout, b, far);
  expect_gradients([](const auto& in) { return div(in[0], in[1]); }, {b, far}, dout,
                   {turned.da, turned.db});
  expect_gradients([](const auto& in) { return exp(in[0]); }, {a}, dout,
                   {exp_backward(dout, exp(a))});
  expect_gradients([](const auto& in) { return clamp_min(in[0], 0.123); }, {a}, dout,
                   {clamp_min_backward(dout, a, 0.123)});
}

TEST(Arithmetic, Errors) {
  const Tensor a = Tensor::zeros({2, 3}, DType::kF32);
  EXPECT_THAT(
      [&] {
        (void)add(a, Tensor::zeros({2, 4}, DType::kF32));
      },
      ThrowsMessage<ArgumentError>("add: dimension 1 of a is 3, but of b it is 4"));
  EXPECT_THAT([&] { (void)mul(a, Tensor::zeros({3}, DType::kF64)); },
              ThrowsMessage<ArgumentError>("mul: a is f32, but b is f64"));
  EXPECT_THAT([&] { (void)neg(Tensor::zeros({3}, DType::kI32)); },
              ThrowsMessage<ArgumentError>("neg: a is i32, expected f64, f32, bf16 or f16"));
  EXPECT_THAT([&] { (void)full({2}, 1, DType::kI64); },
              ThrowsMessage<ArgumentError>(HasSubstr("full: dtype is i64")));
  EXPECT_THROW((void)full({-1}, 1, DType::kF32), ArgumentError);
  EXPECT_THROW((void)exp_backward(a, Tensor::zeros({3}, DType::kF32)), ArgumentError);
  EXPECT_THROW((void)clamp_min_backward(a, Tensor::zeros({2, 4}, DType::kF32), 0), ArgumentError);
  EXPECT_THROW((void)div_backward(a, a, Tensor::zeros({4, 2, 3}, DType::kF32)), ArgumentError);
}

}  // namespace
}  // namespace quire

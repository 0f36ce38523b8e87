#include "quire/ops/math/reduce.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <limits>

#include "quire/base/error.h"
#include "quire/base/thread_pool.h"
#include "tests/support/gradient_check.h"

namespace quire {
namespace {

using test::expect_close;
using test::expect_gradients;
using test::index_of;
using test::random_tensor;
using test::tensor_of;
using test::values;
using testing::ElementsAre;
using testing::HasSubstr;
using testing::ThrowsMessage;

TEST(Reduce, HandWorkedInEveryDtype) {
  for (const DType dtype : {DType::kF64, DType::kF32, DType::kBF16, DType::kF16}) {
    const Tensor x = tensor_of({1, 2, 3, 4, 5, 6}, {2, 3}, dtype);
    EXPECT_THAT(values(sum(x, {0})), ElementsAre(5, 7, 9));
    EXPECT_THAT(values(sum(x, {1})), ElementsAre(6, 15));
    EXPECT_THAT(values(sum(x)), ElementsAre(21));
    EXPECT_THAT(values(mean(x, {-1})), ElementsAre(2, 5));
    EXPECT_THAT(values(norm(tensor_of({3, 0, 4, 0}, {2, 2}, dtype), 0)), ElementsAre(5, 0));
    EXPECT_THAT(values(max(x, 1).values), ElementsAre(3, 6));
    EXPECT_THAT(values(max(x, 0).index), ElementsAre(1, 1, 1));
    EXPECT_EQ(sum(x, {0}).dtype(), dtype);
  }
}

// The sum at each place that is left, one element of x after the other.
std::vector<double> naive_sum(const Tensor& x, const std::vector<int>& dims, std::int64_t count) {
  std::vector<double> out(static_cast<std::size_t>(count));
  const std::vector<double> all = values(x);
  for (std::int64_t i = 0; i < x.elements(); ++i) {
    std::int64_t rest = i, at = 0, step = 1;
    for (int d = x.rank() - 1; d >= 0; --d) {
      const std::int64_t here = rest % x.size(d);
      rest /= x.size(d);
      if (std::find(dims.begin(), dims.end(), d) != dims.end()) continue;
      at += here * step;
      step *= x.size(d);
    }
    out[static_cast<std::size_t>(at)] += all[static_cast<std::size_t>(i)];
  }
  return out;
}

TEST(Reduce, AnyDimensions) {
  for (const std::int64_t last : {1, 33, 65}) {
    const Tensor x = random_tensor({2, 3, 4, last}, 1);
    for (const std::vector<int>& dims : std::vector<std::vector<int>>{{0},
                                                                      {1},
                                                                      {2},
                                                                      {3},
                                                                      {0, 1},
                                                                      {1, 2},
                                                                      {2, 3},
                                                                      {0, 2},
                                                                      {1, 3},
                                                                      {0, 3},
                                                                      {0, 1, 3},
                                                                      {0, 2, 3},
                                                                      {0, 1, 2, 3},
                                                                      {}}) {
      const Tensor out = sum(x, dims), kept = sum(x, dims, Axis::kKeep);
      expect_close(values(out), naive_sum(x, dims, out.elements()), "sum", 1e-14);
      EXPECT_EQ(values(kept), values(out));
      ASSERT_EQ(kept.rank(), 4);
      for (const int d : dims) EXPECT_EQ(kept.size(d), 1);
      EXPECT_EQ(out.rank(), 4 - static_cast<int>(dims.size()));
    }
  }
}

TEST(Reduce, EmptyAndRankZero) {
  EXPECT_THAT(values(sum(Tensor::zeros({0, 2}, DType::kF32), {0})), ElementsAre(0, 0));
  EXPECT_EQ(sum(Tensor::zeros({0, 2}, DType::kF32), {1}).shape(), Shape({0}));
  EXPECT_TRUE(std::isnan(values(mean(Tensor::zeros({0}, DType::kF32)))[0]));
  const Tensor scalar = tensor_of({7}, {});
  EXPECT_THAT(values(sum(scalar)), ElementsAre(7));
  EXPECT_THAT(values(sum(scalar, {0})), ElementsAre(7));
  EXPECT_THAT(values(norm(scalar, -1)), ElementsAre(7));
  EXPECT_THAT(values(max(scalar, 0).index), ElementsAre(0));
  EXPECT_EQ(max(Tensor::zeros({0, 2}, DType::kF32), 1).values.shape(), Shape({0}));
}

TEST(Reduce, SumsOfShortTypesDoNotSaturate) {
  EXPECT_THAT(values(sum(tensor_of({1}, {1}, DType::kBF16).expand({1000}))), ElementsAre(1000));
  EXPECT_THAT(values(sum(tensor_of({1}, {1}, DType::kF16).expand({5000}))), ElementsAre(5000));
}

TEST(Reduce, LargestIsTheFirstOfEqualsAndNanIsLarger) {
  const double nan = std::numeric_limits<double>::quiet_NaN();
  const double inf = std::numeric_limits<double>::infinity();
  const Tensor x = tensor_of({1, 3, 3, nan, inf, nan, -inf, -inf, -inf}, {3, 3});
  const MaxResult out = max(x, 1);
  EXPECT_THAT(values(out.index), ElementsAre(1, 0, 0));
  EXPECT_EQ(values(out.values)[0], 3);
  EXPECT_TRUE(std::isnan(values(out.values)[1]));
  EXPECT_EQ(values(out.values)[2], -inf);
  EXPECT_THAT(values(max(tensor_of({2, nan, 5}, {3}), 0).index), ElementsAre(1));
}

TEST(Reduce, TakesAnyStrides) {
  const Tensor x = random_tensor({5, 4, 3}, 2).transpose(0, 2).slice(1, 1, 3);
  const Tensor plain = x.contiguous_copy();
  EXPECT_EQ(values(sum(x, {0, 2})), values(sum(plain, {0, 2})));
  EXPECT_EQ(values(norm(x, 1)), values(norm(plain, 1)));
  EXPECT_EQ(values(max(x, 0).index), values(max(plain, 0).index));
}

TEST(Reduce, TheSameBitsWithAnyNumberOfThreads) {
  const Tensor x = random_tensor({70, 31, 80}, 3, DType::kF32);
  set_threads(1);
  const std::vector<double> one = values(sum(x, {1})), across = values(sum(x, {0, 2})),
                            largest = values(max(x, 1).index);
  for (const int threads : {2, 7}) {
    set_threads(threads);
    EXPECT_EQ(values(sum(x, {1})), one);
    EXPECT_EQ(values(sum(x, {0, 2})), across);
    EXPECT_EQ(values(max(x, 1).index), largest);
  }
}

TEST(Reduce, SumTo) {
  const Tensor x = random_tensor({2, 3, 4}, 4);
  EXPECT_EQ(values(sum_to(x, {3, 1})), values(sum(x, {0, 2})));
  EXPECT_EQ(sum_to(x, {3, 1}).shape(), Shape({3, 1}));
  EXPECT_EQ(values(sum_to(x, {})), values(sum(x)));
  EXPECT_EQ(values(sum_to(x, {2, 3, 4})), values(x));
  EXPECT_EQ(values(sum_to(x, {1, 1, 1})), values(sum(x)));
  EXPECT_THAT(
      [&] {
        (void)sum_to(x, {2, 4});
      },
      ThrowsMessage<ArgumentError>(
          "sum_to: shape [2, 4] does not broadcast to [2, 3, 4], the shape of x"));
  EXPECT_THROW((void)sum_to(x, {1, 2, 3, 4}), ArgumentError);
}

TEST(Reduce, Backwards) {
  const Tensor x = random_tensor({3, 4, 2}, 5), dout = random_tensor({3, 2}, 6);
  expect_gradients([](const auto& in) { return norm(in[0], 1); }, {x}, dout,
                   {norm_backward(dout, x, norm(x, 1), 1)});
  const MaxResult largest = max(x, 1);
  expect_gradients([](const auto& in) { return max(in[0], 1).values; }, {x}, dout,
                   {max_backward(dout, largest.index, x.shape(), 1)});
  const Tensor kept = random_tensor({3, 1, 2}, 7);
  EXPECT_EQ(values(max_backward(kept, max(x, 1, Axis::kKeep).index, x.shape(), 1)),
            values(max_backward(kept.view({3, 2}), largest.index, x.shape(), 1)));
}

TEST(Reduce, TheNormOfZerosHasNoSlope) {
  const Tensor x = tensor_of({0, 0, 3, 4}, {2, 2});
  EXPECT_THAT(values(norm_backward(tensor_of({1, 10}, {2}), x, norm(x, 1), 1)),
              ElementsAre(0, 0, 6, 8));
}

TEST(Reduce, Errors) {
  const Tensor x = Tensor::zeros({2, 3}, DType::kF32);
  EXPECT_THAT([&] { (void)sum(x, {2}); },
              ThrowsMessage<ArgumentError>("sum: dim is 2, but the rank is 2"));
  EXPECT_THAT(
      [&] {
        (void)mean(x, {0, -2});
      },
      ThrowsMessage<ArgumentError>("mean: dim -2 is named twice"));
  EXPECT_THAT(
      [&] {
        (void)max(Tensor::zeros({2, 0}, DType::kF32), 1);
      },
      ThrowsMessage<ArgumentError>("max: dimension 1 of x is 0"));
  EXPECT_THAT([&] { (void)sum(Tensor::zeros({2}, DType::kI64)); },
              ThrowsMessage<ArgumentError>(HasSubstr("sum: x is i64")));
  const Tensor dout = Tensor::zeros({2}, DType::kF32);
  EXPECT_THAT(
      [&] {
        (void)max_backward(dout, index_of({0, 3}, {2}), {2, 3}, 1);
      },
      ThrowsMessage<ArgumentError>("max_backward: index[1] is 3, but dimension 1 of x is 3"));
  EXPECT_THROW((void)max_backward(dout, index_of({0, -1}, {2}), {2, 3}, 1), ArgumentError);
  EXPECT_THROW((void)max_backward(dout, index_of({0, 1}, {2}), {3, 3}, 1), ArgumentError);
  EXPECT_THROW((void)norm_backward(dout, x, dout, 0), ArgumentError);
  EXPECT_THROW((void)norm_backward(dout, x, Tensor::zeros({3}, DType::kF32), 1), ArgumentError);
}

}  // namespace
}  // namespace quire

#include <cmath>
#include <limits>

#include "quire/ops/index/scatter_reduce.h"
#include "tests/ops/index/index_case.h"

namespace quire {
namespace {

using test::doubles;
using test::expect_refused;
using test::ints;
using test::kIncludes;
using test::kReduces;
using test::numbers;
using test::op;
using testing::ElementsAre;
using testing::ElementsAreArray;

constexpr double kInfinity = std::numeric_limits<double>::infinity();
constexpr double kNaN = std::numeric_limits<double>::quiet_NaN();

TEST(ScatterReduceBackward, IDX_15_ValuesOfTheTable) {
  const Tensor self = doubles({2, 5, 7}, {3}), src = doubles({2, 2, 1, 3}, {4});
  const Tensor index = ints({0, 0, 0, 1}, {4}), dy = doubles({1, 1, 1}, {3});
  const double third = 1.0 / 3;
  struct Row {
    Reduce reduce;
    IncludeSelf include;
    std::vector<double> dself, dsrc;
  };
  const Row rows[] = {{Reduce::kSum, IncludeSelf::kYes, {1, 1, 1}, {1, 1, 1, 1}},
                      {Reduce::kSum, IncludeSelf::kNo, {0, 0, 1}, {1, 1, 1, 1}},
                      {Reduce::kProd, IncludeSelf::kYes, {4, 3, 1}, {4, 4, 8, 5}},
                      {Reduce::kProd, IncludeSelf::kNo, {0, 0, 1}, {2, 2, 4, 1}},
                      {Reduce::kMean, IncludeSelf::kYes, {.25, .5, 1}, {.25, .25, .25, .5}},
                      {Reduce::kMean, IncludeSelf::kNo, {0, 0, 1}, {third, third, third, 1}},
                      {Reduce::kAmax, IncludeSelf::kYes, {third, 1, 1}, {third, third, 0, 0}},
                      {Reduce::kAmax, IncludeSelf::kNo, {0, 0, 1}, {third, third, 0, 1}},
                      {Reduce::kAmin, IncludeSelf::kYes, {0, 0, 1}, {0, 0, 1, 1}},
                      {Reduce::kAmin, IncludeSelf::kNo, {0, 0, 1}, {0, 0, 1, 1}}};
  for (const Row& row : rows) {
    const ScatterReduceGrads grads =
        scatter_reduce_backward(dy, self, 0, index, src, {row.reduce, row.include, Ties::kTorch});
    EXPECT_THAT(numbers(grads.dself), ElementsAreArray(row.dself)) << static_cast<int>(row.reduce);
    EXPECT_THAT(numbers(grads.dsrc), ElementsAreArray(row.dsrc)) << static_cast<int>(row.reduce);
  }
}

TEST(ScatterReduceBackward, IDX_15_ProductsWithZeros) {
  const auto grads = [](double self, std::vector<double> src, IncludeSelf include) {
    const auto n = static_cast<std::int64_t>(src.size());
    const ScatterReduceGrads out = scatter_reduce_backward(
        doubles({1}, {1}), doubles({self}, {1}), 0, Tensor::zeros({n}, DType::kI64),
        doubles(src, {n}), {Reduce::kProd, include, Ties::kTorch});
    std::vector<double> all = numbers(out.dself);
    for (const double x : numbers(out.dsrc)) all.push_back(x);
    return all;
  };
  EXPECT_THAT(grads(2, {0, 3, 4}, IncludeSelf::kYes), ElementsAre(0, 24, 0, 0));
  EXPECT_THAT(grads(2, {0, 0, 4}, IncludeSelf::kYes), ElementsAre(0, 0, 0, 0));
  EXPECT_THAT(grads(0, {2, 3}, IncludeSelf::kYes), ElementsAre(6, 0, 0));
  EXPECT_THAT(grads(0, {2, 3}, IncludeSelf::kNo), ElementsAre(0, 3, 2));
  // Where a division by an element would give infinity or NaN.
  EXPECT_THAT(grads(1e-200, {1e-200, 1e200}, IncludeSelf::kYes), ElementsAre(1, 1, 0));
  EXPECT_THAT(grads(1e200, {1e200, 1e-200}, IncludeSelf::kYes), ElementsAre(1, 1, kInfinity));
}

TEST(ScatterReduceBackward, IDX_16_TiePolicies) {
  const auto run = [](double self, Ties ties) {
    return scatter_reduce_backward(doubles({1}, {1}), doubles({self}, {1}), 0, ints({0, 0, 0}, {3}),
                                   doubles({2, 2, 1}, {3}),
                                   {Reduce::kAmax, IncludeSelf::kNo, ties});
  };
  const double third = 1.0 / 3;
  EXPECT_THAT(numbers(run(2, Ties::kTorch).dsrc), ElementsAre(third, third, 0));
  EXPECT_THAT(numbers(run(0, Ties::kTorch).dsrc), ElementsAre(.5, .5, 0));
  EXPECT_THAT(numbers(run(2, Ties::kConserving).dsrc), ElementsAre(.5, .5, 0));
  EXPECT_THAT(numbers(run(2, Ties::kTorch).dself), ElementsAre(0));
  EXPECT_THAT(numbers(run(2, Ties::kConserving).dself), ElementsAre(0));
}

TEST(ScatterReduceBackward, IDX_15_NaNGivesNaN) {
  for (const Ties ties : {Ties::kTorch, Ties::kConserving}) {
    const ScatterReduceGrads grads = scatter_reduce_backward(
        doubles({1, 1}, {2}), doubles({1, 1}, {2}), 0, ints({0, 0, 1}, {3}),
        doubles({kNaN, 2, 3}, {3}), {Reduce::kAmax, IncludeSelf::kYes, ties});
    EXPECT_TRUE(std::isnan(numbers(grads.dself)[0]));
    EXPECT_TRUE(std::isnan(numbers(grads.dsrc)[0]) && std::isnan(numbers(grads.dsrc)[1]));
    EXPECT_EQ(numbers(grads.dsrc)[2], 1);
  }
}

TEST(ScatterReduceBackward, IDX_17_ZerosOutsideTheIndex) {
  const Tensor self = doubles({1, 2}, {2, 1}).expand({2, 2}),
               src = doubles({1, 2, 3, 4, 5, 6}, {2, 3});
  for (const Reduce reduce : kReduces) {
    const ScatterReduceGrads grads =
        scatter_reduce_backward(doubles({1, 1, 1, 1}, {2, 2}), self, 1, ints({0, 1}, {1, 2}), src,
                                {reduce, IncludeSelf::kNo, Ties::kConserving});
    EXPECT_THAT(numbers(grads.dsrc), ElementsAre(1, 1, 0, 0, 0, 0)) << static_cast<int>(reduce);
  }
}

// Against central differences in f64, away from ties, over strided and expanded inputs.
TEST(ScatterReduceBackward, IDX_15_FiniteDifferences) {
  const Tensor self = test::random({3, 4, 5}, 30, DType::kF64),
               src = test::random({3, 9, 5}, 31, DType::kF64);
  const Tensor dy = test::random({3, 4, 5}, 32, DType::kF64);
  for (const bool expanded : {false, true}) {
    const Tensor index =
        expanded ? test::expanded_index({3, 9, 5}, 1, 4, 33) : test::random_index({3, 9, 5}, 4, 34);
    for (const Reduce reduce : kReduces) {
      for (const IncludeSelf include : kIncludes) {
        const auto loss = [&](const Tensor& a, const Tensor& b) {
          const auto y = numbers(scatter_reduce(a, 1, index, b, reduce, include)), w = numbers(dy);
          double sum = 0;
          for (std::size_t i = 0; i < y.size(); ++i) sum += y[i] * w[i];
          return sum;
        };
        const ScatterReduceGrads grads =
            scatter_reduce_backward(test::awkward(dy), test::awkward(self), 1, test::awkward(index),
                                    test::awkward(src), {reduce, include, Ties::kTorch});
        const auto compare = [&](const Tensor& x, const std::vector<double>& dx, bool is_self) {
          for (std::int64_t i = 0; i < x.elements(); ++i) {
            Tensor up = x.to(DType::kF64), down = x.to(DType::kF64);
            up.mutable_data<double>()[i] += 1e-6;
            down.mutable_data<double>()[i] -= 1e-6;
            const double slope =
                (is_self ? loss(up, src) - loss(down, src) : loss(self, up) - loss(self, down)) /
                2e-6;
            ASSERT_NEAR(dx[static_cast<std::size_t>(i)], slope, 2e-8 * (1 + std::abs(slope)))
                << static_cast<int>(reduce) << " " << static_cast<int>(include) << " element " << i;
          }
        };
        compare(self, numbers(grads.dself), true);
        compare(src, numbers(grads.dsrc), false);
      }
    }
  }
}

TEST(ScatterReduceBackward, EveryFloatingDtypeAgainstTheLoop) {
  for (const DType dtype : {DType::kF64, DType::kF32, DType::kF16, DType::kBF16}) {
    const Tensor self = test::random({4, 6}, 40, dtype), src = test::random({30, 6}, 41, dtype);
    const Tensor dy = test::random({4, 6}, 42, dtype),
                 index = test::expanded_index({30, 6}, 0, 4, 43);
    const double unit = dtype == DType::kF64   ? 1e-12
                        : dtype == DType::kF32 ? 1e-5
                        : dtype == DType::kF16 ? 0x1p-10
                                               : 0x1p-7;
    for (const Reduce reduce : kReduces) {
      for (const IncludeSelf include : kIncludes) {
        const auto truth = ref::scatter_reduce_backward<double>(
            numbers(dy), numbers(self), self.shape(), 0, test::values<std::int64_t>(index),
            index.shape(), numbers(src), src.shape(), op(reduce), include == IncludeSelf::kYes,
            true);
        const ScatterReduceGrads grads =
            scatter_reduce_backward(dy, self, 0, index, src, {reduce, include, Ties::kTorch});
        const auto dself = numbers(grads.dself), dsrc = numbers(grads.dsrc);
        for (std::size_t i = 0; i < dself.size(); ++i)
          ASSERT_NEAR(dself[i], truth.dself[i], unit * (1 + std::abs(truth.dself[i])));
        for (std::size_t i = 0; i < dsrc.size(); ++i)
          ASSERT_NEAR(dsrc[i], truth.dsrc[i], unit * (1 + std::abs(truth.dsrc[i])));
      }
    }
  }
  expect_refused(
      [] {
        scatter_reduce_backward(ints({1}, {1}), ints({1}, {1}), 0, ints({0}, {1}), ints({1}, {1}),
                                {});
      },
      "self is i64, only floating dtypes");
}

TEST(ScatterReduceBackward, TwiceTheGradientIsTwiceTheResult) {
  const Tensor self = test::random({5, 7}, 50, DType::kF64),
               src = test::random({20, 7}, 51, DType::kF64);
  const Tensor dy = test::random({5, 7}, 52, DType::kF64),
               index = test::random_index({20, 7}, 5, 53);
  std::vector<double> doubled = numbers(dy);
  for (double& x : doubled) x *= 2;
  for (const Reduce reduce : kReduces) {
    const auto once = numbers(scatter_reduce_backward(dy, self, 0, index, src, {reduce}).dsrc);
    const auto twice = numbers(
        scatter_reduce_backward(doubles(doubled, {5, 7}), self, 0, index, src, {reduce}).dsrc);
    for (std::size_t i = 0; i < once.size(); ++i) EXPECT_EQ(twice[i], 2 * once[i]);
  }
}

}  // namespace
}  // namespace quire

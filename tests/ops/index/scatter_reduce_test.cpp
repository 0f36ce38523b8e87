#include "quire/ops/index/scatter_reduce.h"

#include <cmath>
#include <limits>

#include "tests/ops/index/index_case.h"

namespace quire {
namespace {

using test::bytes;
using test::doubles;
using test::expect_refused;
using test::floats;
using test::ints;
using test::kIncludes;
using test::kReduces;
using test::numbers;
using test::op;
using testing::ElementsAre;
using testing::ElementsAreArray;

constexpr double kInfinity = std::numeric_limits<double>::infinity();
constexpr double kNaN = std::numeric_limits<double>::quiet_NaN();

TEST(ScatterReduce, IDX_01_NotebookMatrix) {
  const Tensor out =
      scatter_reduce(Tensor::zeros({2, 4}, DType::kI64), 1, ints({0, 1, 1, 2, 1, 2, 2, 3}, {2, 4}),
                     ints({10, 20, 30, 40, 50, 60, 70, 80}, {2, 4}), Reduce::kSum);
  EXPECT_EQ(out.dtype(), DType::kI64);
  EXPECT_THAT(numbers(out), ElementsAre(10, 50, 40, 0, 0, 50, 130, 80));
}

TEST(ScatterReduce, IDX_03_FiveReductionsTimesIncludeSelf) {
  const std::vector<double> expected[5][2] = {{{13, 20, 33}, {3, 20, 3}},
                                              {{20, 20, 90}, {2, 20, 3}},
                                              {{13.0 / 3, 20, 16.5}, {1.5, 20, 3}},
                                              {{10, 20, 30}, {2, 20, 3}},
                                              {{1, 20, 3}, {1, 20, 3}}};
  for (const DType dtype : {DType::kF32, DType::kF64}) {
    const Tensor x = doubles({10, 20, 30}, {3}, dtype), src = doubles({1, 2, 3}, {3}, dtype);
    for (const Reduce reduce : kReduces) {
      for (const IncludeSelf include : kIncludes) {
        const auto& row = expected[static_cast<int>(reduce)][static_cast<int>(include)];
        const auto out = numbers(scatter_reduce(x, 0, ints({0, 0, 2}, {3}), src, reduce, include));
        for (std::size_t i = 0; i < 3; ++i)
          EXPECT_NEAR(out[i], row[i], dtype == DType::kF32 ? 1e-6 : 0);
      }
    }
  }
}

TEST(ScatterReduce, IDX_04_UntouchedPlacesKeepSelf) {
  for (const Reduce reduce : kReduces) {
    const Tensor out = scatter_reduce(doubles({kNaN, 7, kNaN}, {3}), 0, ints({0}, {1}),
                                      doubles({2}, {1}), reduce, IncludeSelf::kNo);
    EXPECT_EQ(numbers(out)[0], 2);  // a NaN in a touched self is gone
    EXPECT_EQ(numbers(out)[1], 7);
    EXPECT_TRUE(std::isnan(numbers(out)[2]));
  }
}

TEST(ScatterReduce, IDX_05_IntegerMeansFloor) {
  for (const DType dtype : {DType::kI64, DType::kI32, DType::kI16, DType::kI8}) {
    const Tensor x = test::whole({0, -7, 5}, {3}, dtype);
    const Tensor src = test::whole({-1, -2, -3, -4}, {4}, dtype);
    const Tensor index = ints({0, 0, 1, 1}, {4});
    EXPECT_THAT(numbers(scatter_reduce(x, 0, index, src, Reduce::kMean, IncludeSelf::kNo)),
                ElementsAre(-2, -4, 5));
    EXPECT_THAT(numbers(scatter_reduce(x, 0, index, src, Reduce::kMean)), ElementsAre(-1, -5, 5));
  }
  // Neither the sum nor the count wraps.
  const Tensor many = scatter_reduce(
      test::whole({0}, {1}, DType::kU8), 0, Tensor::zeros({300}, DType::kI64),
      test::whole({200}, {1}, DType::kU8).expand({300}), Reduce::kMean, IncludeSelf::kNo);
  EXPECT_THAT(numbers(many), ElementsAre(200));
}

TEST(ScatterReduce, IDX_06_IndexMayBeSmallerThanSrc) {
  const Tensor out =
      scatter_reduce(Tensor::zeros({2, 2}, DType::kF32), 1, ints({0, 0, 1, 1}, {2, 2}),
                     floats({1, 2, 100, 3, 4, 100, 100, 100, 100}, {3, 3}), Reduce::kSum);
  EXPECT_THAT(numbers(out), ElementsAre(3, 0, 0, 7));
  expect_refused(
      [] {
        scatter_reduce(Tensor::zeros({2, 2}, DType::kF32), 1, Tensor::zeros({2, 4}, DType::kI64),
                       Tensor::zeros({2, 3}, DType::kF32), Reduce::kSum);
      },
      "index: size is 4 at dim 1, but src has only 3 there");
}

TEST(ScatterReduce, IDX_07_BadValuesLeaveSelfAlone) {
  for (const Reduce reduce : kReduces) {
    for (const IncludeSelf include : kIncludes) {
      Tensor self = test::random({64, 16}, 1);
      Tensor out = test::random({64, 16}, 1);
      const auto before = bytes(self);
      Tensor index = test::random_index({3000, 1}, 64, 2);
      index.mutable_data<std::int64_t>()[2999] = 64;
      const Tensor rows = index.expand({3000, 16}), src = test::random({3000, 16}, 3);
      expect_refused([&] { scatter_reduce_(self, 0, rows, src, reduce, include); },
                     "index[2999, 0] is 64, allowed are 0 to 63 (size 64 at dim 0)");
      expect_refused([&] { scatter_reduce_out(out, self, 0, rows, src, reduce, include); },
                     "index[2999, 0] is 64");
      EXPECT_TRUE(bytes(self) == before && bytes(out) == before);
    }
  }
}

TEST(ScatterReduce, IDX_08_IndexDtypes) {
  const Tensor x = floats({1, 2, 3}, {3}), src = floats({5}, {1});
  EXPECT_THAT(numbers(scatter_reduce(x, 0, ints({1}, {1}, DType::kI32), src, Reduce::kSum)),
              ElementsAre(1, 7, 3));
  expect_refused([&] { scatter_reduce(x, 0, floats({1}, {1}), src, Reduce::kSum); },
                 "index is f32, expected i64 or i32");
  EXPECT_THAT(numbers(scatter_reduce(x, 0, Tensor::empty({0}, DType::kF32), src, Reduce::kSum)),
              ElementsAre(1, 2, 3));
}

TEST(ScatterReduce, IDX_09_ScalarsAndEmpties) {
  const Tensor five = doubles({5}, {1}).view({});
  const Tensor out = scatter_reduce(five, 0, ints({0, 0}, {2}), doubles({3, 4}, {2}), Reduce::kSum);
  EXPECT_EQ(out.rank(), 0);
  EXPECT_THAT(numbers(out), ElementsAre(12));
  const Tensor none = Tensor::zeros({0, 4}, DType::kF32);
  EXPECT_THAT(
      scatter_reduce(none, 1, Tensor::zeros({0, 4}, DType::kI64), none, Reduce::kMean).shape(),
      ElementsAre(0, 4));
  expect_refused(
      [] {
        scatter_reduce(Tensor::zeros({0}, DType::kF32), 0, ints({0}, {1}), floats({1}, {1}),
                       Reduce::kSum);
      },
      "size 0 at dim 0");
}

TEST(ScatterReduce, IDX_11_OverlapsAreRefused) {
  Tensor expanded = Tensor::zeros({1}, DType::kF32).expand({3});
  expect_refused(
      [&] { scatter_reduce_(expanded, 0, ints({0}, {1}), floats({1}, {1}), Reduce::kSum); },
      "self is expanded at dim 0");
  Tensor self = floats({1, 2, 3, 4}, {4});
  expect_refused(
      [&] {
        scatter_reduce_(self, 0, ints({0, 0}, {2}), self.slice(0, 1, 3), Reduce::kSum);
      },
      "src shares memory with self");
  expect_refused(
      [&] { scatter_reduce_out(self, self, 0, ints({0}, {1}), floats({1}, {1}), Reduce::kSum); },
      "self shares memory with out");
  EXPECT_THAT(numbers(self), ElementsAre(1, 2, 3, 4));
  // Columns of one matrix interleave without sharing an element: allowed.
  Tensor both = floats({1, 2, 3, 4}, {2, 2});
  Tensor left = both.slice(1, 0, 1);
  scatter_reduce_(left, 0, ints({0, 0}, {2, 1}), both.slice(1, 1, 2), Reduce::kSum);
  EXPECT_THAT(numbers(both), ElementsAre(7, 2, 3, 4));
}

TEST(ScatterReduce, IDX_12_NaNAndInfinity) {
  for (const DType dtype : {DType::kF64, DType::kF32, DType::kF16, DType::kBF16}) {
    const Tensor src = doubles({1, kNaN, -kInfinity, kInfinity, 2, kInfinity, kNaN}, {7}, dtype);
    const Tensor index = ints({0, 0, 1, 1, 2, 3, 3}, {7});
    const Tensor self = doubles({0, 0, kNaN, 0}, {4}, dtype);
    const auto high = numbers(scatter_reduce(self, 0, index, src, Reduce::kAmax));
    const auto low = numbers(scatter_reduce(self, 0, index, src, Reduce::kAmin));
    EXPECT_TRUE(std::isnan(high[0]) && std::isnan(low[0]));
    EXPECT_EQ(high[1], kInfinity);
    EXPECT_EQ(low[1], -kInfinity);
    EXPECT_TRUE(std::isnan(high[2]) && std::isnan(low[2]));
    EXPECT_TRUE(std::isnan(high[3]) && std::isnan(low[3]));
    const auto without =
        numbers(scatter_reduce(self, 0, index, src, Reduce::kAmax, IncludeSelf::kNo));
    EXPECT_EQ(without[2], 2);
  }
  // The vector paths: a NaN first, last, or alone in a row of 40.
  for (const std::int64_t D : {1, 40}) {
    for (const std::int64_t bad : {0, 500, 999}) {
      Tensor src = test::random({1000, D}, 8);
      src.mutable_data<float>()[bad * D] = std::numeric_limits<float>::quiet_NaN();
      const Tensor index = Tensor::zeros({1000, 1}, DType::kI64).expand({1000, D});
      for (const Reduce reduce : {Reduce::kAmax, Reduce::kAmin}) {
        const auto out =
            numbers(scatter_reduce(Tensor::zeros({2, D}, DType::kF32), 0, index, src, reduce));
        EXPECT_TRUE(std::isnan(out[0])) << D << " " << bad;
        EXPECT_FALSE(std::isnan(out.back()));
      }
    }
  }
}

TEST(ScatterReduce, IDX_13_EveryDtype) {
  for (const DType dtype : test::kAllTypes) {
    const bool is_bool = dtype == DType::kBool;
    const Tensor self = test::whole({1, 0, 1}, {3}, dtype),
                 src = test::whole({1, 1, 0}, {3}, dtype);
    const Tensor index = ints({0, 0, 2}, {3});
    const auto run = [&](Reduce reduce, IncludeSelf include) {
      return numbers(scatter_reduce(self, 0, index, src, reduce, include));
    };
    EXPECT_THAT(run(Reduce::kSum, IncludeSelf::kYes), ElementsAre(is_bool ? 1 : 3, 0, 1));
    EXPECT_THAT(run(Reduce::kSum, IncludeSelf::kNo), ElementsAre(is_bool ? 1 : 2, 0, 0));
    EXPECT_THAT(run(Reduce::kProd, IncludeSelf::kYes), ElementsAre(1, 0, 0));
    EXPECT_THAT(run(Reduce::kProd, IncludeSelf::kNo), ElementsAre(1, 0, 0));
    EXPECT_THAT(run(Reduce::kAmax, IncludeSelf::kYes), ElementsAre(1, 0, 1));
    EXPECT_THAT(run(Reduce::kAmax, IncludeSelf::kNo), ElementsAre(1, 0, 0));
    EXPECT_THAT(run(Reduce::kAmin, IncludeSelf::kYes), ElementsAre(1, 0, 0));
    EXPECT_THAT(run(Reduce::kAmin, IncludeSelf::kNo), ElementsAre(1, 0, 0));
    if (is_bool) {
      expect_refused([&] { run(Reduce::kMean, IncludeSelf::kYes); },
                     "self is bool, which has no mean");
    } else {
      EXPECT_THAT(run(Reduce::kMean, IncludeSelf::kNo), ElementsAre(1, 0, 0));
    }
  }
  const Tensor least =
      scatter_reduce(test::whole({5}, {1}, DType::kI8), 0, ints({0}, {1}),
                     test::whole({-128}, {1}, DType::kI8), Reduce::kAmax, IncludeSelf::kNo);
  EXPECT_THAT(numbers(least), ElementsAre(-128));
}

TEST(ScatterReduce, IDX_14_ShortFloatsAccumulateInFloat) {
  for (const DType dtype : {DType::kBF16, DType::kF16}) {
    for (const std::int64_t D : {1, 24}) {
      const Tensor ones = scatter_reduce(
          Tensor::zeros({1, D}, dtype), 0, Tensor::zeros({1000, 1}, DType::kI64).expand({1000, D}),
          test::doubles({1}, {1, 1}, dtype).expand({1000, D}), Reduce::kSum);
      for (const double x : numbers(ones)) EXPECT_EQ(x, 1000);
    }
    // The count of a mean is exact too, and the result is rounded once.
    const Tensor src = test::random({3000, 1}, 9, dtype);
    const auto truth = ref::scatter_reduce<float>(
        {0}, {1, 1}, 0, std::vector<std::int64_t>(3000, 0), {3000, 1},
        test::values<float>(src.to(DType::kF32)), {3000, 1}, ref::Op::kMean, true);
    const Tensor mean = scatter_reduce(Tensor::zeros({1, 1}, dtype), 0,
                                       Tensor::zeros({3000, 1}, DType::kI64), src, Reduce::kMean);
    EXPECT_EQ(numbers(mean), numbers(test::floats(truth.out, {1, 1}).to(dtype)));
  }
}

}  // namespace
}  // namespace quire

#include "quire/ops/index/scatter_reduce.h"

#include <cmath>
#include <limits>

#include "tests/ops/index/index_case.h"
#include "tests/support/allocation_counter.h"

namespace quire {
namespace {

using test::bytes;
using test::doubles;
using test::expect_refused;
using test::floats;
using test::ints;
using test::numbers;
using testing::ElementsAre;
using testing::ElementsAreArray;

constexpr Reduce kReduces[] = {Reduce::kSum, Reduce::kProd, Reduce::kMean, Reduce::kAmax,
                               Reduce::kAmin};
constexpr IncludeSelf kIncludes[] = {IncludeSelf::kYes, IncludeSelf::kNo};
constexpr double kInfinity = std::numeric_limits<double>::infinity();
constexpr double kNaN = std::numeric_limits<double>::quiet_NaN();

ref::Op op(Reduce reduce) {
  constexpr ref::Op kOps[] = {ref::Op::kSum, ref::Op::kProd, ref::Op::kMean, ref::Op::kAmax,
                              ref::Op::kAmin};
  return kOps[static_cast<std::size_t>(reduce)];
}

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

struct Layout {
  Shape self, index, src;
  int dim;
};

// All reductions over shapes that reach every path, against the plain loop in the same type: the
// order is promised, so the bits are equal.
template <class T>
void compare_with_loop(const Layout& layout, bool expanded, std::uint64_t seed) {
  const DType dtype = dtype_of<T>;
  const auto dim = static_cast<std::size_t>(layout.dim);
  const Tensor self = test::random(layout.self, seed, dtype),
               src = test::random(layout.src, seed + 1, dtype);
  const std::int64_t size = layout.self[dim];
  const Tensor index = expanded ? test::expanded_index(layout.index, layout.dim, size, seed + 2)
                                : test::random_index(layout.index, size, seed + 2);
  for (const Reduce reduce : kReduces) {
    for (const IncludeSelf include : kIncludes) {
      const auto truth = ref::scatter_reduce<T>(
          test::values<T>(self), layout.self, dim, test::values<std::int64_t>(index), layout.index,
          test::values<T>(src), layout.src, op(reduce), include == IncludeSelf::kYes);
      const Tensor out = scatter_reduce(self, layout.dim, index, src, reduce, include);
      ASSERT_TRUE(test::values<T>(out) == truth.out)
          << to_string(layout.self) << " from " << to_string(layout.index) << " dim " << layout.dim
          << " reduce " << static_cast<int>(reduce) << " include " << static_cast<int>(include)
          << (expanded ? " expanded" : "");
      Tensor place = test::awkward(self);
      scatter_reduce_(place, layout.dim, test::awkward(index), test::awkward(src), reduce, include);
      ASSERT_TRUE(test::values<T>(place) == truth.out);
      Tensor into = Tensor::empty(layout.self, dtype);
      scatter_reduce_out(into, self, layout.dim, index, src, reduce, include);
      ASSERT_TRUE(test::values<T>(into) == truth.out);
    }
  }
}

TEST(ScatterReduce, IDX_10_EveryLayoutEqualsThePlainLoop) {
  const Layout layouts[] = {{{7}, {40}, {40}, 0},
                            {{40}, {7}, {9}, 0},
                            {{3000}, {5}, {5}, 0},
                            {{5, 33}, {60, 33}, {60, 33}, 0},
                            {{33, 5}, {33, 60}, {33, 60}, 1},
                            {{3, 4, 17}, {3, 50, 17}, {3, 50, 20}, 1},
                            {{4, 3, 2, 8}, {4, 20, 2, 7}, {4, 21, 3, 7}, 1},
                            {{1, 9, 1}, {1, 8, 1}, {1, 8, 1}, 1}};
  std::uint64_t seed = 10;
  for (const Layout& layout : layouts) {
    for (const bool expanded : {false, true}) {
      compare_with_loop<float>(layout, expanded, seed);
      compare_with_loop<double>(layout, expanded, seed);
      seed += 10;
    }
  }
}

TEST(ScatterReduce, IDX_23_RowPathEqualsElementPath) {
  for (const std::int64_t D : {1, 7, 8, 15, 16, 17, 64, 65, 128, 200}) {
    compare_with_loop<float>({{50, D}, {2000, D}, {2000, D}, 0}, true, 77);
  }
  compare_with_loop<float>({{9000}, {20000}, {20000}, 0}, false, 78);
  compare_with_loop<float>({{2, 9000}, {2, 20000}, {2, 20000}, 1}, true, 79);
}

// Too large to stay in the cache: places are finished one after the other.
TEST(ScatterReduce, IDX_23_LargeOutputs) {
  constexpr std::int64_t kPlaces = 30000, kRows = 9000, kWidth = 128;
  const Tensor self = test::random({kPlaces, kWidth}, 4), src = test::random({kRows, kWidth}, 5);
  const Tensor index = test::expanded_index({kRows, kWidth}, 0, kPlaces, 6);
  for (const Reduce reduce : kReduces) {
    const auto truth = ref::scatter_reduce<float>(
        test::values<float>(self), self.shape(), 0, test::values<std::int64_t>(index),
        index.shape(), test::values<float>(src), src.shape(), op(reduce), false);
    const Tensor out = scatter_reduce(self, 0, index, src, reduce, IncludeSelf::kNo);
    EXPECT_TRUE(test::values<float>(out) == truth.out) << static_cast<int>(reduce);
  }
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

TEST(ScatterReduce, IDX_21_SameBitsWithAnyNumberOfThreads) {
  for (const std::int64_t D : {1, 64}) {
    const Tensor self = test::random({500, D}, 20), src = test::random({6000, D}, 21);
    const Tensor index = test::expanded_index({6000, D}, 0, 500, 22);
    const Tensor full = test::random_index({6000, D}, 500, 23), dy = test::random({500, D}, 24);
    for (const Reduce reduce : kReduces) {
      for (const IncludeSelf include : kIncludes) {
        test::expect_same_bits(
            [&] { return scatter_reduce(self, 0, index, src, reduce, include); });
        test::expect_same_bits([&] { return scatter_reduce(self, 0, full, src, reduce, include); });
        test::expect_same_bits([&] {
          return scatter_reduce_backward(dy, self, 0, index, src, {reduce, include, Ties::kTorch})
              .dsrc;
        });
      }
    }
    const Tensor short_self = self.to(DType::kBF16), short_src = src.to(DType::kBF16);
    test::expect_same_bits(
        [&] { return scatter_reduce(short_self, 0, index, short_src, Reduce::kSum); });
  }
}

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

TEST(ScatterReduce, MemoryIsTheIndexAndATable) {
  const Tensor self = test::random({1000, 64}, 60), src = test::random({20000, 64}, 61);
  const Tensor index = test::expanded_index({20000, 64}, 0, 1000, 62);
  const Tensor short_self = self.to(DType::kF16), short_src = src.to(DType::kF16);
  const int before_threads = thread_pool().threads();
  set_threads(2);
  for (const Reduce reduce : kReduces) {
    reset_peak_allocated_bytes();
    const std::int64_t before = allocated_bytes();
    const std::int64_t table =
        test::peak_bytes([&] { scatter_reduce(self, 0, index, src, reduce); });
    EXPECT_LE(peak_allocated_bytes() - before, self.bytes());
    EXPECT_LE(table, 20000 * 8 + 3 * 1000 * 8 + 4096);
    EXPECT_LE(test::peak_bytes([&] { scatter_reduce(short_self, 0, index, short_src, reduce); }),
              20000 * 8 + 3 * 1000 * 8 + 4096);
  }
  set_threads(before_threads);
}

}  // namespace
}  // namespace quire

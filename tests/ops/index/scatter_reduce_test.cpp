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

// A long index written out, an entry for each element: rows, unless one entry is another.
TEST(ScatterReduce, IDX_23_WrittenOutIndexEqualsTheExpandedOne) {
  constexpr std::int64_t kRows = 1500, kWidth = 24;
  const Tensor self = test::random({40, kWidth}, 90), src = test::random({kRows, kWidth}, 91);
  const Tensor expanded = test::expanded_index({kRows, kWidth}, 0, 40, 92);
  for (const std::int64_t changed : {-1, 0, 13, 23}) {
    Tensor index = expanded.contiguous_copy();
    std::int64_t& entry =
        index.mutable_data<std::int64_t>()[1499 * kWidth + std::max<std::int64_t>(changed, 0)];
    if (changed >= 0) entry = (entry + 1) % 40;
    for (const Reduce reduce : kReduces) {
      for (const IncludeSelf include : kIncludes) {
        const auto truth = ref::scatter_reduce<float>(
            test::values<float>(self), self.shape(), 0, test::values<std::int64_t>(index),
            index.shape(), test::values<float>(src), src.shape(), op(reduce),
            include == IncludeSelf::kYes);
        const Tensor out = scatter_reduce(self, 0, index, src, reduce, include);
        EXPECT_TRUE(test::values<float>(out) == truth.out) << changed;
      }
    }
  }
  Tensor bad = expanded.contiguous_copy();
  std::fill_n(bad.mutable_data<std::int64_t>() + 700 * kWidth, kWidth, 40);
  expect_refused([&] { scatter_reduce(self, 0, bad, src, Reduce::kSum); },
                 "index[700, 0] is 40, allowed are 0 to 39");
}

// Half of a long index names one place: it goes another way to the same bits.
TEST(ScatterReduce, IDX_21_APlaceThatManyName) {
  constexpr std::int64_t kRows = 40000, kPlaces = 3000;
  const Tensor self = test::random({kPlaces}, 80);
  Tensor index = test::random_index({kRows}, kPlaces, 81);
  for (std::int64_t n = 0; n < kRows; n += 2) index.mutable_data<std::int64_t>()[n] = 1234;
  for (const std::int64_t nan_at : {-1, 5, 20000, 39998}) {
    Tensor src = test::random({kRows}, 82);
    if (nan_at >= 0) src.mutable_data<float>()[nan_at] = std::numeric_limits<float>::quiet_NaN();
    for (const Reduce reduce : kReduces) {
      for (const IncludeSelf include : kIncludes) {
        const auto truth = ref::scatter_reduce<float>(
            test::values<float>(self), {kPlaces}, 0, test::values<std::int64_t>(index), {kRows},
            test::values<float>(src), {kRows}, op(reduce), include == IncludeSelf::kYes);
        const auto out = test::values<float>(scatter_reduce(self, 0, index, src, reduce, include));
        for (std::size_t m = 0; m < out.size(); ++m)
          ASSERT_TRUE(out[m] == truth.out[m] || (std::isnan(out[m]) && std::isnan(truth.out[m])))
              << m << " NaN at " << nan_at << " reduce " << static_cast<int>(reduce);
        if (nan_at < 0)
          test::expect_same_bits(
              [&] { return scatter_reduce(self, 0, index, src, reduce, include); });
      }
    }
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

// A NaN among the rows of a large output: every other place is what it is without.
TEST(ScatterReduce, IDX_12_NaNInALargeOutput) {
  constexpr std::int64_t kPlaces = 30000, kWidth = 128;
  const Tensor self = test::random({kPlaces, kWidth}, 84);
  const Tensor index = ints({7, 7, 7, 9, 7}, {5, 1}).expand({5, kWidth});
  for (const Reduce reduce : {Reduce::kAmax, Reduce::kAmin}) {
    for (const std::int64_t row : {0, 2, 4}) {
      Tensor src = test::random({5, kWidth}, 85);
      const auto clean = numbers(scatter_reduce(self, 0, index, src, reduce).slice(0, 0, 10));
      src.mutable_data<float>()[row * kWidth + 100] = std::numeric_limits<float>::quiet_NaN();
      const auto out = numbers(scatter_reduce(self, 0, index, src, reduce).slice(0, 0, 10));
      for (std::size_t i = 0; i < out.size(); ++i) {
        if (i == 7 * 128 + 100)
          EXPECT_TRUE(std::isnan(out[i])) << row;
        else
          ASSERT_EQ(out[i], clean[i]) << i;
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

// Beside the result: no more than the index and one table of a number per place and thread.
void expect_small(const Tensor& self, const Tensor& index, const Tensor& src,
                  std::int64_t index_bytes) {
  constexpr std::int64_t kThreads = 2, kObjects = 8192;
  const std::int64_t table = (kThreads + 1) * self.size(0) * 8;
  for (const Reduce reduce : kReduces) {
    for (const IncludeSelf include : kIncludes) {
      reset_peak_allocated_bytes();
      const std::int64_t before = allocated_bytes();
      const std::int64_t heap =
          test::peak_bytes([&] { scatter_reduce(self, 0, index, src, reduce, include); });
      EXPECT_LE(peak_allocated_bytes() - before, self.bytes());
      EXPECT_LE(heap, index_bytes + table + kObjects)
          << to_string(self.shape()) << to_string(src.shape()) << to_string(self.dtype());
    }
  }
}

TEST(ScatterReduce, MemoryIsTheIndexAndATable) {
  const int before = thread_pool().threads();
  set_threads(2);
  struct Size {
    std::int64_t places, rows, width;
  };
  for (const auto& [places, rows, width] :
       {Size{1000, 20000, 64}, {1000, 100000, 1}, {30000, 90000, 128}, {100000, 500, 64}}) {
    const Tensor self = Tensor::zeros({places, width}, DType::kF32),
                 src = Tensor::zeros({rows, width}, DType::kF32);
    const Tensor index = test::expanded_index({rows, width}, 0, places, 62);
    const bool few = rows < places / 8;  // named places, not all, have a group
    expect_small(self, index, src, few ? 3 * rows * 8 : rows * 8);
    if (width == 64)
      expect_small(self.to(DType::kF16), index, src.to(DType::kF16), few ? 3 * rows * 8 : rows * 8);
  }
  // An entry for every element: counts of the places of one cache line and thread.
  const Tensor full = test::random_index({20000, 64}, 1000, 63);
  expect_small(Tensor::zeros({1000, 64}, DType::kF32), full,
               Tensor::zeros({20000, 64}, DType::kF32), full.bytes());
  set_threads(before);
}

}  // namespace
}  // namespace quire

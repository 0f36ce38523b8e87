// Every way through the kernels gives the bits of the plain loop, in little memory.

#include <algorithm>
#include <cmath>
#include <limits>

#include "quire/ops/index/scatter_reduce.h"
#include "tests/ops/index/index_case.h"
#include "tests/support/allocation_counter.h"

namespace quire {
namespace {

using test::expect_refused;
using test::ints;
using test::kIncludes;
using test::kReduces;
using test::numbers;
using test::op;

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

TEST(ScatterReducePaths, IDX_10_EveryLayoutEqualsThePlainLoop) {
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

TEST(ScatterReducePaths, IDX_23_RowPathEqualsElementPath) {
  for (const std::int64_t D : {1, 7, 8, 15, 16, 17, 64, 65, 128, 200}) {
    compare_with_loop<float>({{50, D}, {2000, D}, {2000, D}, 0}, true, 77);
  }
  compare_with_loop<float>({{9000}, {20000}, {20000}, 0}, false, 78);
  compare_with_loop<float>({{2, 9000}, {2, 20000}, {2, 20000}, 1}, true, 79);
}

// Too large to stay in the cache: places are finished one after the other.
TEST(ScatterReducePaths, IDX_23_LargeOutputs) {
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
TEST(ScatterReducePaths, IDX_23_WrittenOutIndexEqualsTheExpandedOne) {
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
TEST(ScatterReducePaths, IDX_21_APlaceThatManyName) {
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

// A NaN among the rows of a large output: every other place is what it is without.
TEST(ScatterReducePaths, IDX_12_NaNInALargeOutput) {
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

TEST(ScatterReducePaths, IDX_21_SameBitsWithAnyNumberOfThreads) {
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

TEST(ScatterReducePaths, MemoryIsTheIndexAndATable) {
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

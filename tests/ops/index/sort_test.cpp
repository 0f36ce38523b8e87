#include "quire/ops/index/sort.h"

#include <algorithm>
#include <cmath>
#include <limits>
#include <numeric>

#include "tests/ops/index/index_case.h"

namespace quire {
namespace {

using test::doubles;
using test::expect_refused;
using test::floats;
using test::ints;
using test::numbers;
using testing::ElementsAre;

TEST(Sort, HandWorked) {
  const Tensor x = floats({3, 1, 2, 1}, {4});
  const Sorted up = sort(x), down = sort(x, 0, SortOrder::kDescending);
  EXPECT_THAT(numbers(up.values), ElementsAre(1, 1, 2, 3));
  EXPECT_THAT(numbers(up.index), ElementsAre(1, 3, 2, 0));
  EXPECT_THAT(numbers(down.values), ElementsAre(3, 2, 1, 1));
  EXPECT_THAT(numbers(down.index), ElementsAre(0, 2, 1, 3));  // equal elements keep their order
  EXPECT_EQ(up.index.dtype(), DType::kI64);
  const Tensor matrix = floats({3, 1, 2, 4}, {2, 2});
  EXPECT_THAT(numbers(sort(matrix, 0).values), ElementsAre(2, 1, 3, 4));
  EXPECT_THAT(numbers(argsort(matrix, 1)), ElementsAre(1, 0, 0, 1));
}

TEST(Sort, NaNIsTheLargestAndZerosAreEqual) {
  const double nan = std::numeric_limits<double>::quiet_NaN(),
               infinity = std::numeric_limits<double>::infinity();
  for (const DType dtype : {DType::kF64, DType::kF32, DType::kF16, DType::kBF16}) {
    const Tensor x = doubles({nan, 0.0, infinity, -0.0, -nan, -infinity, 0.0}, {7}, dtype);
    EXPECT_THAT(numbers(argsort(x)), ElementsAre(5, 1, 3, 6, 2, 0, 4)) << to_string(dtype);
    EXPECT_THAT(numbers(argsort(x, 0, SortOrder::kDescending)), ElementsAre(0, 4, 2, 1, 3, 6, 5));
    const auto values = numbers(sort(x).values);
    EXPECT_TRUE(std::signbit(values[2]) && !std::signbit(values[1]));  // each zero keeps its sign
  }
}

// Lengths on both sides of the change of algorithm, every dtype, few distinct values.
TEST(Sort, EqualsTheStableSortOfTheLibrary) {
  for (const DType dtype : test::kAllTypes) {
    const bool is_signed = dtype != DType::kU8 && dtype != DType::kBool;
    for (const std::int64_t N : {1, 2, 31, 511, 512, 513, 5000}) {
      const Tensor x = test::random_whole({N}, is_signed ? -60 : 0, dtype == DType::kBool ? 1 : 60,
                                          static_cast<std::uint64_t>(N), dtype);
      const std::vector<double> values = numbers(x);
      for (const SortOrder order : {SortOrder::kAscending, SortOrder::kDescending}) {
        std::vector<std::int64_t> truth(values.size());
        std::iota(truth.begin(), truth.end(), 0);
        std::stable_sort(truth.begin(), truth.end(), [&](std::int64_t a, std::int64_t b) {
          const double u = values[static_cast<std::size_t>(a)],
                       v = values[static_cast<std::size_t>(b)];
          return order == SortOrder::kAscending ? u < v : u > v;
        });
        ASSERT_TRUE(test::values<std::int64_t>(argsort(x, 0, order)) == truth)
            << to_string(dtype) << N;
      }
    }
  }
  // Large integers and tiny differences that a float key would lose.
  const std::int64_t big = std::int64_t{1} << 60;
  EXPECT_THAT(numbers(argsort(ints({big + 1, big, -big, -big - 1}, {4}))), ElementsAre(3, 2, 1, 0));
}

TEST(Sort, EveryDimAndStride) {
  const Tensor x = test::random({5, 33, 4}, 1);
  for (const int dim : {0, 1, 2, -1}) {
    const Sorted plain = sort(x, dim), strided = sort(test::awkward(x), dim);
    EXPECT_TRUE(test::bytes(plain.values) == test::bytes(strided.values));
    EXPECT_TRUE(test::bytes(plain.index) == test::bytes(strided.index));
    const Sorted turned = sort(x.transpose(dim, 0), 0);
    EXPECT_TRUE(test::bytes(turned.values.transpose(dim, 0)) == test::bytes(plain.values));
  }
  test::expect_same_bits([&] { return sort(x.expand({8, 5, 33, 4}), 2).index; });
}

TEST(Sort, ScalarsEmptiesAndErrors) {
  const Sorted one = sort(floats({5}, {1}).view({}));
  EXPECT_EQ(one.values.rank(), 0);
  EXPECT_THAT(numbers(one.index), ElementsAre(0));
  EXPECT_THAT(sort(Tensor::zeros({3, 0}, DType::kF32), 1).index.shape(), ElementsAre(3, 0));
  expect_refused([] { sort(floats({1}, {1}), 1); }, "dim is 1, allowed are -1 to 0");
}

TEST(SortBackward, PutsGradientsBack) {
  const Tensor x = floats({3, 1, 2, 9, 8, 7}, {2, 3});
  const Sorted sorted = sort(x, 1);
  EXPECT_THAT(numbers(sort_backward(floats({10, 20, 30, 40, 50, 60}, {2, 3}), 1, sorted.index)),
              ElementsAre(30, 10, 20, 60, 50, 40));
  expect_refused([&] { sort_backward(floats({1}, {1}), 0, sorted.index); }, "dvalues: rank is 1");
}

}  // namespace
}  // namespace quire

#include "quire/ops/index/segment_reduce.h"

#include <cmath>
#include <limits>

#include "tests/ops/index/index_case.h"

namespace quire {
namespace {

using test::doubles;
using test::expect_refused;
using test::floats;
using test::ints;
using test::numbers;
using testing::ElementsAre;

constexpr Reduce kReduces[] = {Reduce::kSum, Reduce::kProd, Reduce::kMean, Reduce::kAmax,
                               Reduce::kAmin};
constexpr double kInfinity = std::numeric_limits<double>::infinity();

TEST(SegmentReduce, HandWorked) {
  const Tensor x = floats({1, 2, 3, 4, 5, 6, 7, 8}, {4, 2}), start = ints({0, 1, 1, 4}, {4});
  EXPECT_THAT(numbers(segment_reduce(x, start, Reduce::kSum)), ElementsAre(1, 2, 0, 0, 15, 18));
  EXPECT_THAT(numbers(segment_reduce(x, start, Reduce::kProd)), ElementsAre(1, 2, 1, 1, 105, 192));
  EXPECT_THAT(numbers(segment_reduce(x, start, Reduce::kAmax)),
              ElementsAre(1, 2, -kInfinity, -kInfinity, 7, 8));
  EXPECT_THAT(numbers(segment_reduce(x, start, Reduce::kAmin)),
              ElementsAre(1, 2, kInfinity, kInfinity, 3, 4));
  const auto mean = numbers(segment_reduce(x, start, Reduce::kMean));
  EXPECT_TRUE(std::isnan(mean[2]) && std::isnan(mean[3]));
  EXPECT_EQ(mean[4], 5);
}

TEST(SegmentReduce, Initial) {
  const Tensor x = floats({1, 2, 3}, {3}), start = ints({0, 2, 2, 3}, {4});
  EXPECT_THAT(numbers(segment_reduce(x, start, Reduce::kSum, 10)), ElementsAre(13, 10, 13));
  EXPECT_THAT(numbers(segment_reduce(x, start, Reduce::kMean, 10)), ElementsAre(6.5, 10, 13));
  EXPECT_THAT(numbers(segment_reduce(x, start, Reduce::kAmax, 2.5)), ElementsAre(2.5, 2.5, 3));
  const Tensor dy = floats({1, 1, 1}, {3});
  EXPECT_THAT(numbers(segment_reduce_backward(dy, x, start, Reduce::kAmax, 2.5)),
              ElementsAre(0, 0, 1));
  EXPECT_THAT(numbers(segment_reduce_backward(dy, x, start, Reduce::kProd, 4)),
              ElementsAre(8, 4, 4));
  EXPECT_THAT(numbers(segment_reduce_backward(dy, x, start, Reduce::kMean, 4)),
              ElementsAre(.5, .5, 1));
}

TEST(SegmentReduce, AlongAnyDimension) {
  const Tensor x = floats({1, 2, 3, 4, 5, 6, 7, 8}, {2, 4});
  // The same runs for both rows, then each row's own.
  for (const int dim : {1, -1}) {
    EXPECT_THAT(numbers(segment_reduce(x, ints({0, 1, 4}, {3}), Reduce::kSum, std::nullopt, dim)),
                ElementsAre(1, 9, 5, 21));
    EXPECT_THAT(numbers(segment_reduce(x, ints({0, 1, 4, 0, 4, 4}, {2, 3}), Reduce::kSum,
                                       std::nullopt, dim)),
                ElementsAre(1, 9, 26, 0));
  }
  const Tensor deep = test::random({3, 7, 2, 5}, 4), start = ints({0, 2, 2, 7}, {4});
  const Tensor along = segment_reduce(deep.transpose(0, 1), start, Reduce::kAmax);
  EXPECT_EQ(test::bytes(segment_reduce(deep, start, Reduce::kAmax, std::nullopt, 1)),
            test::bytes(along.transpose(0, 1)));
  const Tensor dy = test::random({3, 3, 2, 5}, 5);
  EXPECT_EQ(test::bytes(segment_reduce_backward(dy, deep, start, Reduce::kSum, std::nullopt, 1)),
            test::bytes(segment_reduce_backward(dy.transpose(0, 1), deep.transpose(0, 1), start,
                                                Reduce::kSum)
                            .transpose(0, 1)));
  EXPECT_THAT(segment_reduce(Tensor::zeros({0, 4}, DType::kF32), ints({0, 4}, {2}), Reduce::kSum,
                             std::nullopt, 1)
                  .shape(),
              ElementsAre(0, 1));
  EXPECT_THAT(numbers(starts_of_lengths(ints({1, 3, 4, 0}, {2, 2}))),
              ElementsAre(0, 1, 4, 0, 4, 4));
}

TEST(SegmentReduce, ErrorsAlongOtherDimensions) {
  const Tensor x = floats({1, 2, 3, 4, 5, 6}, {2, 3});
  const auto reduce = [&](const Tensor& start, int dim) {
    return [&x, start, dim] { segment_reduce(x, start, Reduce::kSum, std::nullopt, dim); };
  };
  expect_refused(reduce(ints({0, 3, 0, 2}, {2, 2}), 1),
                 "start[1, 1] is 2, but x has size 3 at dim 1");
  expect_refused(reduce(ints({0, 3, 0, 3, 0, 3}, {3, 2}), 1),
                 "start: size is 3 at dim 0, but x has 2 there");
  expect_refused(reduce(ints({0, 2, 0, 2}, {2, 2}), 0), "start: rank is 2, expected 1");
  expect_refused(reduce(ints({0, 3}, {1, 1, 2}), 1), "start: rank is 3, expected 1 or 2");
  expect_refused(reduce(ints({0, 3}, {2}), 2), "dim is 2, allowed are -2 to 1");
  expect_refused([] { starts_of_lengths(ints({2, 1, 3, -1}, {2, 2})); }, "lengths[1, 1] is -1");
}

TEST(SegmentReduce, EqualsThePlainLoop) {
  const std::vector<std::int64_t> ends{0, 3, 3, 700, 701, 2000};
  for (const std::int64_t D : {1, 16, 33}) {
    const Tensor x = test::random({2000, D}, 1);
    for (const Reduce reduce : {Reduce::kSum, Reduce::kAmax}) {
      const auto out = test::values<float>(segment_reduce(x, ints(ends, {6}, DType::kI32), reduce));
      for (std::size_t b = 0; b + 1 < ends.size(); ++b) {
        for (std::int64_t d = 0; d < D; ++d) {
          float acc = reduce == Reduce::kSum ? 0.0f : -std::numeric_limits<float>::infinity();
          for (std::int64_t n = ends[b]; n < ends[b + 1]; ++n) {
            const float v = x.data<float>()[n * D + d];
            acc = reduce == Reduce::kSum ? acc + v : std::max(acc, v);
          }
          ASSERT_EQ(out[b * static_cast<std::size_t>(D) + static_cast<std::size_t>(d)], acc);
        }
      }
      test::expect_same_bits([&] { return segment_reduce(x, ints(ends, {6}), reduce); });
    }
  }
}

TEST(SegmentReduce, Errors) {
  const Tensor x = floats({1, 2, 3}, {3});
  expect_refused(
      [&] {
        segment_reduce(x, ints({0, 2}, {2}), Reduce::kSum);
      },
      "start[1] is 2, but x has size 3 at dim 0");
  expect_refused(
      [&] {
        segment_reduce(x, ints({1, 3}, {2}), Reduce::kSum);
      },
      "start[0] is 1, expected 0");
  expect_refused(
      [&] {
        segment_reduce(x, ints({0, 2, 1, 3}, {4}), Reduce::kSum);
      },
      "start[2] is 1, less than the one before, 2");
  expect_refused([&] { segment_reduce(x, Tensor::empty({0}, DType::kI64), Reduce::kSum); },
                 "start: size is 0");
  expect_refused([&] { segment_reduce(x, floats({0, 3}, {2}), Reduce::kSum); }, "start is f32");
  expect_refused(
      [&] {
        segment_reduce(ints({1}, {1}), ints({0, 1}, {2}), Reduce::kSum);
      },
      "x is i64");
  EXPECT_THAT(numbers(starts_of_lengths(ints({2, 0, 3}, {3}))), ElementsAre(0, 2, 2, 5));
  expect_refused([] { starts_of_lengths(ints({2, -1}, {2})); }, "lengths[1] is -1");
  const std::int64_t most = std::numeric_limits<std::int64_t>::max();
  expect_refused([&] { starts_of_lengths(ints({most, 1}, {2})); }, "more than 2^63 - 1");
}

TEST(SegmentReduceBackward, FiniteDifferences) {
  const Tensor x = test::random({12, 3}, 2, DType::kF64), start = ints({0, 5, 5, 12}, {4});
  const Tensor dy = test::random({3, 3}, 3, DType::kF64);
  for (const Reduce reduce : kReduces) {
    const auto loss = [&](const Tensor& at) {
      const auto y = numbers(segment_reduce(at, start, reduce)), w = numbers(dy);
      double sum = 0;
      for (const std::size_t i : {0u, 1u, 2u, 6u, 7u, 8u}) sum += y[i] * w[i];
      return sum;
    };
    const auto dx = numbers(segment_reduce_backward(dy, x, start, reduce));
    for (std::int64_t i = 0; i < x.elements(); ++i) {
      Tensor up = x.to(DType::kF64), down = x.to(DType::kF64);
      up.mutable_data<double>()[i] += 1e-6;
      down.mutable_data<double>()[i] -= 1e-6;
      ASSERT_NEAR(dx[static_cast<std::size_t>(i)], (loss(up) - loss(down)) / 2e-6, 1e-7)
          << static_cast<int>(reduce);
    }
  }
}

}  // namespace
}  // namespace quire

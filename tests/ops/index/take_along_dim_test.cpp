#include "quire/ops/index/take_along_dim.h"

#include "quire/ops/index/sort.h"
#include "tests/ops/index/index_case.h"

namespace quire {
namespace {

using test::expect_refused;
using test::floats;
using test::ints;
using test::numbers;
using testing::ElementsAre;

TEST(TakeAlongDim, IDX_19_HandWorked) {
  const Tensor x = floats({10, 30, 20, 60, 40, 50}, {2, 3});
  EXPECT_THAT(numbers(take_along_dim(x, ints({2, 0}, {2, 1}), 1)), ElementsAre(20, 60));
  EXPECT_THAT(numbers(take_along_dim(x, ints({5, 0, 1, 1}, {2, 2}))), ElementsAre(50, 10, 30, 30));
  EXPECT_THAT(numbers(take_along_dim(x, argsort(x, 1), 1)), ElementsAre(10, 20, 30, 40, 50, 60));
}

TEST(TakeAlongDim, BothSidesBroadcast) {
  const Tensor x = floats({1, 2, 3}, {1, 3});
  EXPECT_THAT(numbers(take_along_dim(x, ints({0, 2}, {2, 1}), 1)), ElementsAre(1, 3));
  const Tensor tall = floats({1, 2, 3, 4}, {2, 2});
  EXPECT_THAT(numbers(take_along_dim(tall, ints({1, 0, 1}, {1, 3}), 1)),
              ElementsAre(2, 1, 2, 4, 3, 4));
  expect_refused(
      [&] {
        take_along_dim(tall, ints({0, 0, 0}, {3, 1}), 1);
      },
      "index: size is 3 at dim 0, but self has 2 there");
  expect_refused([&] { take_along_dim(tall, ints({0}, {1}), 1); },
                 "index: rank is 1, but self has rank 2");
}

TEST(TakeAlongDim, NegativeValuesCountFromTheEnd) {
  const Tensor x = floats({1, 2, 3, 4, 5, 6}, {2, 3});
  EXPECT_THAT(numbers(take_along_dim(x, ints({-1, -3}, {2, 1}), 1)), ElementsAre(3, 4));
  EXPECT_THAT(numbers(take_along_dim(x, ints({-1, 0}, {2}))), ElementsAre(6, 1));
  expect_refused(
      [&] {
        take_along_dim(x, ints({-4, 0}, {2, 1}), 1);
      },
      "index[0, 0] is -4, allowed are -3 to 2");
  expect_refused([&] { take_along_dim(x, ints({0, 3}, {2, 1}), 1); }, "index[1, 0] is 3");
  expect_refused([&] { take_along_dim(x, floats({0}, {1, 1}), 1); }, "index is f32");
  EXPECT_THAT(
      numbers(take_along_dim_backward(floats({5, 7}, {2, 1}), {2, 3}, ints({-1, -1}, {2, 1}), 1)),
      ElementsAre(0, 0, 5, 0, 0, 7));
}

TEST(TakeAlongDimBackward, SumsOverWhatWasBroadcast) {
  EXPECT_THAT(numbers(take_along_dim_backward(floats({1, 2, 3, 4}, {4, 1}), {1, 3},
                                              ints({0, 2, 2, 1}, {4, 1}), 1)),
              ElementsAre(1, 4, 5));
  EXPECT_THAT(
      numbers(take_along_dim_backward(floats({1, 2, 4}, {3}), {2, 2}, ints({3, 0, 3}, {3}))),
      ElementsAre(2, 0, 0, 5));
}

// Linear in dout: <take(x), dy> = <x, backward(dy)>.
TEST(TakeAlongDimBackward, IsTheTranspose) {
  const Tensor x = test::random({1, 6, 4}, 1, DType::kF64),
               index = test::random_index({3, 9, 1}, 6, 2);
  const Tensor dy = test::random({3, 9, 4}, 3, DType::kF64);
  const auto y = numbers(take_along_dim(x, index, 1)), v = numbers(dy), at = numbers(x);
  const auto dx = numbers(take_along_dim_backward(dy, {1, 6, 4}, index, 1));
  ASSERT_EQ(dx.size(), at.size());
  double left = 0, right = 0;
  for (std::size_t i = 0; i < y.size(); ++i) left += y[i] * v[i];
  for (std::size_t i = 0; i < at.size(); ++i) right += at[i] * dx[i];
  EXPECT_NEAR(left, right, 1e-11);
}

}  // namespace
}  // namespace quire

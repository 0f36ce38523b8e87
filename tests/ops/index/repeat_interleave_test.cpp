#include "quire/ops/index/repeat_interleave.h"

#include "tests/ops/index/index_case.h"

namespace quire {
namespace {

using test::expect_refused;
using test::floats;
using test::ints;
using test::numbers;
using testing::ElementsAre;

TEST(RepeatInterleave, IDX_20_OneNumber) {
  const Tensor x = ints({1, 2, 3, 4}, {2, 2});
  EXPECT_THAT(numbers(repeat_interleave(x, 2)), ElementsAre(1, 1, 2, 2, 3, 3, 4, 4));
  // The notebook's repeat_interleave(y, 3, dim=1).
  const Tensor y = repeat_interleave(x, 3, 1);
  EXPECT_THAT(y.shape(), ElementsAre(2, 6));
  EXPECT_THAT(numbers(y), ElementsAre(1, 1, 1, 2, 2, 2, 3, 3, 3, 4, 4, 4));
  EXPECT_THAT(numbers(repeat_interleave(x, 2, -2)), ElementsAre(1, 2, 1, 2, 3, 4, 3, 4));
  EXPECT_THAT(repeat_interleave(x, 0, 0).shape(), ElementsAre(0, 2));
  EXPECT_THAT(numbers(repeat_interleave(x.transpose(0, 1), 1)), ElementsAre(1, 3, 2, 4));
}

TEST(RepeatInterleave, IDX_20_OneNumberPerSlice) {
  const Tensor x = ints({1, 2, 3, 4}, {2, 2});
  EXPECT_THAT(numbers(repeat_interleave(x, ints({1, 2}, {2}), 0)), ElementsAre(1, 2, 3, 4, 3, 4));
  EXPECT_THAT(numbers(repeat_interleave(x, ints({0, 3}, {2}, DType::kI32), 1)),
              ElementsAre(2, 2, 2, 4, 4, 4));
  EXPECT_THAT(numbers(repeat_interleave(x, ints({2}, {1}), 0)),
              ElementsAre(1, 2, 1, 2, 3, 4, 3, 4));
  EXPECT_THAT(numbers(repeat_interleave(x, ints({1, 0, 0, 2}, {4}))), ElementsAre(1, 4, 4));
  EXPECT_THAT(numbers(repeat_interleave(x, ints({1, 2}, {2}), 0, 3)),
              ElementsAre(1, 2, 3, 4, 3, 4));
}

TEST(RepeatInterleave, IDX_20_TheIndexItself) {
  const Tensor index = repeat_interleave_index(ints({1, 2, 0}, {3}));
  EXPECT_EQ(index.dtype(), DType::kI64);
  EXPECT_THAT(numbers(index), ElementsAre(0, 1, 1));
  EXPECT_THAT(numbers(repeat_interleave_index(ints({1, 2, 0}, {3}), 3)), ElementsAre(0, 1, 1));
  expect_refused(
      [] {
        repeat_interleave_index(ints({1, 2, 0}, {3}), 4);
      },
      "output_size is 4, but the repeats add up to 3");
  expect_refused([] { repeat_interleave_index(ints({1, -2, 0}, {3})); }, "repeats[1] is -2");
  EXPECT_THAT(repeat_interleave_index(Tensor::empty({0}, DType::kI64)).shape(), ElementsAre(0));
}

TEST(RepeatInterleave, IDX_20_Scalars) {
  const Tensor five = floats({5}, {1}).view({});
  EXPECT_THAT(numbers(repeat_interleave(five, 3)), ElementsAre(5, 5, 5));
  EXPECT_THAT(numbers(repeat_interleave(five, 2, 0)), ElementsAre(5, 5));
}

TEST(RepeatInterleave, IDX_20_Errors) {
  const Tensor x = ints({1, 2, 3, 4}, {2, 2});
  expect_refused([&] { repeat_interleave(x, -1); }, "repeats is -1");
  expect_refused([&] { repeat_interleave(x, ints({1, -2}, {2}), 0); }, "repeats[1] is -2");
  expect_refused(
      [&] {
        repeat_interleave(x, ints({1, 2, 3}, {3}), 0);
      },
      "repeats: size is 3, but x has 2 slices at dim 0");
  expect_refused(
      [&] {
        repeat_interleave(x, floats({1, 2}, {2}), 0);
      },
      "repeats is f32, expected i64 or i32");
  expect_refused(
      [&] {
        repeat_interleave(x, ints({1, 2}, {2}), 0, 4);
      },
      "output_size is 4, but the repeats add up to 3");
  expect_refused([&] { repeat_interleave(x, 2, 0, 3); }, "output_size is 3");
  expect_refused(
      [&] {
        repeat_interleave(x, ints({1, 1, 1, 1}, {2, 2}), 0);
      },
      "repeats: rank is 2");
  expect_refused([&] { repeat_interleave(x, 2, 2); }, "dim is 2");
  const std::int64_t most = std::numeric_limits<std::int64_t>::max();
  expect_refused([&] { repeat_interleave(x, ints({most, most}, {2}), 0); }, "more than 2^63 - 1");
}

TEST(RepeatInterleaveBackward, IDX_20_IsTheSegmentSum) {
  EXPECT_THAT(numbers(repeat_interleave_backward(floats({1, 2, 3, 4, 5, 6}, {6}), {2}, 3)),
              ElementsAre(6, 15));
  EXPECT_THAT(numbers(repeat_interleave_backward(floats({1, 2, 3, 4}, {2, 2}), {2, 3},
                                                 ints({0, 2, 0}, {3}), 1)),
              ElementsAre(0, 3, 0, 0, 7, 0));
  const Tensor dy = test::random({900, 16}, 1);
  test::expect_same_bits([&] { return repeat_interleave_backward(dy, {300, 16}, 3, 0); });
  expect_refused(
      [&] {
        repeat_interleave_backward(dy, {300, 16}, 2, 0);
      },
      "dout: size is 900 at dim 0, expected 600");
}

}  // namespace
}  // namespace quire

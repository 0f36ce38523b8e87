#include "quire/ops/index/index_select.h"

#include "tests/ops/index/index_case.h"

namespace quire {
namespace {

using test::bytes;
using test::expect_refused;
using test::floats;
using test::ints;
using test::numbers;
using testing::ElementsAre;

TEST(IndexSelect, IDX_19_HandWorked) {
  const Tensor x = floats({1, 2, 3, 4, 5, 6}, {2, 3});
  EXPECT_THAT(numbers(index_select(x, 1, ints({2, 0, 2, 2}, {4}))),
              ElementsAre(3, 1, 3, 3, 6, 4, 6, 6));
  EXPECT_THAT(numbers(index_select(x, -2, ints({1}, {1}))), ElementsAre(4, 5, 6));
  EXPECT_THAT(numbers(index_select(x, 0, ints({1}, {1}).view({}))), ElementsAre(4, 5, 6));
  EXPECT_THAT(numbers(index_select(x, 0, ints({1, 0}, {2}, DType::kI32))),
              ElementsAre(4, 5, 6, 1, 2, 3));
}

TEST(IndexSelect, IDX_09_ScalarsAndEmpties) {
  const Tensor five = floats({5}, {1}).view({});
  EXPECT_EQ(index_select(five, 0, ints({0}, {1})).rank(), 0);
  expect_refused(
      [&] {
        index_select(five, 0, ints({0, 0}, {2}));
      },
      "index: size is 2, but self has rank 0");
  const Tensor x = Tensor::zeros({2, 3}, DType::kF32);
  EXPECT_THAT(index_select(x, 1, Tensor::empty({0}, DType::kI64)).shape(), ElementsAre(2, 0));
  EXPECT_THAT(index_select(Tensor::zeros({0, 3}, DType::kF32), 1, ints({2, 2}, {2})).shape(),
              ElementsAre(0, 2));
}

TEST(IndexSelect, IDX_07_Errors) {
  const Tensor x = floats({1, 2, 3, 4, 5, 6}, {2, 3});
  Tensor out = floats({9, 9, 9}, {1, 3});
  const auto before = bytes(out);
  expect_refused(
      [&] {
        index_select(x, 0, ints({0, 0, 0, 0}, {2, 2}));
      },
      "index: rank is 2, expected 1");
  expect_refused([&] { index_select(x, 0, ints({2}, {1})); },
                 "is 2, allowed are 0 to 1 (size 2 at dim 0)");
  expect_refused([&] { index_select_out(out, x, 0, ints({-1}, {1})); },
                 "is -1, allowed are 0 to 1");
  expect_refused(
      [&] {
        index_select_out(out, x, 0, ints({0, 1}, {2}));
      },
      "out: size is 1 at dim 0, expected 2");
  expect_refused([&] { index_select(x, 0, floats({0}, {1})); }, "index is f32");
  EXPECT_TRUE(bytes(out) == before);
  index_select_out(out, x, 0, ints({1}, {1}));
  EXPECT_THAT(numbers(out), ElementsAre(4, 5, 6));
}

TEST(IndexSelect, IDX_10_EveryDimAndStride) {
  for (const DType dtype : test::kAllTypes) {
    const Tensor x = test::random_whole({4, 9, 17}, 0, dtype == DType::kBool ? 1 : 100, 1, dtype);
    for (const int dim : {0, 1, 2}) {
      const Tensor index = test::random_index({40}, x.size(dim), 2);
      const Tensor out = index_select(x, dim, index);
      EXPECT_TRUE(bytes(out) == bytes(index_select(test::awkward(x), dim, test::awkward(index))));
      for (std::int64_t n = 0; n < 40; ++n) {
        const std::int64_t from = index.data<std::int64_t>()[n];
        ASSERT_TRUE(bytes(out.slice(dim, n, n + 1)) == bytes(x.slice(dim, from, from + 1)));
      }
    }
  }
}

TEST(IndexSelectBackward, AddsWhereItWasPicked) {
  const Tensor dout = floats({1, 2, 3, 4, 5, 6}, {3, 2});
  EXPECT_THAT(numbers(index_select_backward(dout, {3, 2}, 0, ints({2, 0, 2}, {3}))),
              ElementsAre(3, 4, 0, 0, 6, 8));
  expect_refused(
      [&] {
        index_select_backward(dout, {3, 2}, 1, ints({0}, {1}));
      },
      "dout: size is 2 at dim 1, expected 1");
  const Tensor dy = test::random({9000, 32}, 3), index = test::random_index({9000}, 70, 4);
  test::expect_same_bits([&] { return index_select_backward(dy, {70, 32}, 0, index); });
}

}  // namespace
}  // namespace quire

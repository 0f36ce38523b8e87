#include "quire/ops/matmul/grouped_matmul.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include "quire/base/error.h"
#include "quire/base/thread_pool.h"
#include "quire/ops/matmul/dense.h"
#include "tests/support/gradient_check.h"

namespace quire {
namespace {

using test::expect_close;
using test::index_of;
using test::random_tensor;
using test::values;
using testing::ThrowsMessage;

const std::vector<std::int64_t> kEnds{3, 3, 10, 14};

Tensor part(const Tensor& x, int dim, std::size_t e) {
  return x.slice(dim, e == 0 ? 0 : kEnds[e - 1], kEnds[e]);
}
Tensor matrix(const Tensor& x, std::size_t e) {
  const auto at = static_cast<std::int64_t>(e);
  return x.slice(0, at, at + 1).contiguous_copy().view({x.size(1), x.size(2)});
}

TEST(GroupedMatmul, MOE_18_RowsTimesMatrices) {
  // 17 rows, of which 14 are in groups; one group is empty.
  const Tensor a = random_tensor({17, 9}, 1), b = random_tensor({4, 9, 70}, 2);
  const Tensor out = grouped_matmul(a, b, index_of(kEnds, {4}));
  for (std::size_t e = 0; e < 4; ++e)
    expect_close(values(part(out, 0, e)), values(matmul(part(a, 0, e), matrix(b, e))), "rows",
                 1e-14);
  for (const double value : values(out.slice(0, 14, 17))) EXPECT_EQ(value, 0);
}

TEST(GroupedMatmul, MOE_18_MatricesTimesColumns) {
  const Tensor a = random_tensor({4, 5, 9}, 1), b = random_tensor({9, 17}, 2);
  const Tensor out = grouped_matmul(a, b, index_of(kEnds, {4}).to(DType::kI32));
  EXPECT_EQ(out.shape(), (Shape{5, 17}));
  for (std::size_t e = 0; e < 4; ++e)
    expect_close(values(part(out, 1, e)), values(matmul(matrix(a, e), part(b, 1, e))), "columns",
                 1e-14);
}

TEST(GroupedMatmul, MOE_18_TheInnerDimension) {
  const Tensor a = random_tensor({5, 17}, 1), b = random_tensor({17, 70}, 2);
  const Tensor out = grouped_matmul(a, b, index_of(kEnds, {4}));
  EXPECT_EQ(out.shape(), (Shape{4, 5, 70}));
  for (std::size_t e = 0; e < 4; ++e)
    expect_close(values(matrix(out, e)), values(matmul(part(a, 1, e), part(b, 0, e))), "inner",
                 1e-14);
}

TEST(GroupedMatmul, MOE_18_ABatchWithoutGroups) {
  const Tensor a = random_tensor({4, 5, 9}, 1), b = random_tensor({4, 9, 3}, 2);
  EXPECT_EQ(values(grouped_matmul(a, b)), values(matmul(a, b)));
}

TEST(GroupedMatmul, MOE_18_TheBitsOfTheDenseProductInF32) {
  // One chain of FMAs in both.
  const std::int64_t K = 300;
  const Tensor a = random_tensor({17, K}, 1, DType::kF32),
               b = random_tensor({4, K, 70}, 2, DType::kF32);
  const Tensor out = grouped_matmul(a, b, index_of(kEnds, {4}));
  for (std::size_t e = 0; e < 4; ++e)
    EXPECT_EQ(values(part(out, 0, e)), values(matmul(part(a, 0, e), matrix(b, e)))) << e;
}

TEST(GroupedMatmul, MOE_18_AnyStridesAndShortTypes) {
  for (const DType dtype : {DType::kF64, DType::kF32, DType::kBF16, DType::kF16}) {
    const Tensor a = random_tensor({9, 17}, 1, dtype).transpose(0, 1),
                 b = random_tensor({9, 4, 35}, 2, dtype).transpose(0, 1),
                 c = random_tensor({4, 35, 18}, 2, dtype).transpose(1, 2).slice(1, 0, 9);
    const Tensor ends = index_of(kEnds, {4});
    EXPECT_EQ(values(grouped_matmul(a, b, ends)),
              values(grouped_matmul(a.contiguous_copy(), b.contiguous_copy(), ends)));
    EXPECT_EQ(values(grouped_matmul(a, c, ends)),
              values(grouped_matmul(a, c.contiguous_copy(), ends)));
    EXPECT_EQ(grouped_matmul(a, b, ends).dtype(), dtype);
  }
}

TEST(GroupedMatmul, MOE_18_GradientsOfTheThreeForms) {
  const Tensor ends = index_of({2, 2, 5}, {3});
  const std::pair<Shape, Shape> shapes[] = {
      {{6, 4}, {3, 4, 2}}, {{3, 2, 4}, {4, 6}}, {{2, 6}, {6, 3}}};
  for (const auto& [left, right] : shapes) {
    const Tensor a = random_tensor(left, 1), b = random_tensor(right, 2);
    const Tensor dout = random_tensor(grouped_matmul(a, b, ends).shape(), 3);
    const GroupedMatmulGradients both = grouped_matmul_backward(dout, a, b, ends);
    test::expect_gradients([&](const auto& in) { return grouped_matmul(in[0], in[1], ends); },
                           {a, b}, dout, {both.da, both.db});
  }
}

TEST(GroupedMatmul, TheSameBitsWithAnyNumberOfThreads) {
  const Tensor a = random_tensor({400, 200}, 1, DType::kF32),
               b = random_tensor({3, 200, 130}, 2, DType::kF32),
               ends = index_of({7, 300, 399}, {3});
  set_threads(1);
  const std::vector<double> one = values(grouped_matmul(a, b, ends));
  for (const int threads : {2, 7}) {
    set_threads(threads);
    EXPECT_EQ(values(grouped_matmul(a, b, ends)), one);
  }
  set_threads(2);
}

TEST(GroupedMatmul, EmptySizes) {
  const Tensor none = index_of({0, 0}, {2});
  EXPECT_EQ(values(grouped_matmul(Tensor::zeros({0, 3}, DType::kF32),
                                  random_tensor({2, 3, 4}, 1, DType::kF32), none)),
            std::vector<double>());
  EXPECT_EQ(values(grouped_matmul(Tensor::zeros({2, 0}, DType::kF32),
                                  Tensor::zeros({0, 2}, DType::kF32), none)),
            std::vector<double>(8));
  EXPECT_EQ(values(grouped_matmul(Tensor::zeros({2, 0}, DType::kF32),
                                  Tensor::zeros({1, 0, 2}, DType::kF32), index_of({2}, {1}))),
            std::vector<double>(4));
}

TEST(GroupedMatmul, Errors) {
  const Tensor a = Tensor::zeros({6, 4}, DType::kF32), b = Tensor::zeros({2, 4, 3}, DType::kF32);
  EXPECT_THAT(
      [&] {
        (void)grouped_matmul(a, b, index_of({3, 7}, {2}));
      },
      ThrowsMessage<ArgumentError>("ends_E[1] is 7, expected 3 to 6"));
  EXPECT_THAT(
      [&] {
        (void)grouped_matmul(a, b, index_of({3, 2}, {2}));
      },
      ThrowsMessage<ArgumentError>("ends_E[1] is 2, expected 3 to 6"));
  EXPECT_THAT(
      [&] { (void)grouped_matmul(a, b, index_of({3}, {1})); },
      ThrowsMessage<ArgumentError>("grouped_matmul: b has 2 matrices, but ends_E has 1 groups"));
  EXPECT_THROW((void)grouped_matmul(b, b.transpose(1, 2), index_of({3}, {1})), ArgumentError);
  EXPECT_THROW((void)grouped_matmul(a, b), ArgumentError);
  EXPECT_THROW((void)grouped_matmul(a, b.transpose(1, 2), index_of({3, 6}, {2})), ArgumentError);
  EXPECT_THROW((void)grouped_matmul(a.to(DType::kF64), b, index_of({3, 6}, {2})), ArgumentError);
  EXPECT_THROW((void)grouped_matmul(a, b, Tensor::zeros({2}, DType::kF32)), ArgumentError);
  EXPECT_THROW((void)grouped_matmul_backward(a, a, b, index_of({3, 6}, {2})), ArgumentError);
}

}  // namespace
}  // namespace quire

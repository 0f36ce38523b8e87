#include "quire/ops/matmul/dense.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <cmath>

#include "quire/base/error.h"
#include "quire/base/thread_pool.h"
#include "tests/support/gradient_check.h"

namespace quire {
namespace {

using test::expect_close;
using test::expect_gradients;
using test::random_tensor;
using test::tensor_of;
using test::values;
using testing::ElementsAre;
using testing::ThrowsMessage;

TEST(Dense, ATT_09_TheFiveCasesByHand) {
  for (const DType dtype : {DType::kF64, DType::kF32, DType::kBF16, DType::kF16}) {
    const Tensor v = tensor_of({1, 2}, {2}, dtype), m = tensor_of({1, 2, 3, 4}, {2, 2}, dtype);
    EXPECT_THAT(values(matmul(v, v)), ElementsAre(5));
    EXPECT_EQ(matmul(v, v).rank(), 0);
    EXPECT_THAT(values(matmul(m, m)), ElementsAre(7, 10, 15, 22));
    EXPECT_THAT(values(matmul(v, m)), ElementsAre(7, 10));
    EXPECT_THAT(values(matmul(m, v)), ElementsAre(5, 11));
    const Tensor stack = tensor_of({1, 0, 0, 1, 2, 0, 0, 2}, {2, 2, 2}, dtype);
    EXPECT_THAT(values(matmul(stack, m)), ElementsAre(1, 2, 3, 4, 2, 4, 6, 8));
    EXPECT_EQ(matmul(stack, m).dtype(), dtype);
  }
}

// One output after the other, over all leading dimensions.
template <class T>
std::vector<T> reference(const Tensor& a, const Tensor& b, const Tensor& out) {
  const Tensor left = a.rank() == 1 ? a.contiguous_copy().view({1, a.size(0)}) : a;
  const Tensor right = b.rank() == 1 ? b.contiguous_copy().view({b.size(0), 1}) : b;
  const std::int64_t N = left.size(-2), K = left.size(-1), M = right.size(-1);
  Shape batch = out.shape();
  if (b.rank() > 1) batch.pop_back();
  if (a.rank() > 1) batch.pop_back();
  const auto spread = [&](const Tensor& x) {
    Shape shape = batch;
    shape.push_back(x.size(-2));
    shape.push_back(x.size(-1));
    return values(x.expand(shape));
  };
  const std::vector<double> from_a = spread(left), from_b = spread(right);
  std::vector<T> sums;
  for (std::int64_t i = 0; i < out.elements(); ++i) {
    const std::int64_t m = i % M, n = i / M % N, at = i / M / N;
    T sum = 0;
    for (std::int64_t k = 0; k < K; ++k)
      sum += static_cast<T>(from_a[static_cast<std::size_t>((at * N + n) * K + k)]) *
             static_cast<T>(from_b[static_cast<std::size_t>((at * K + k) * M + m)]);
    sums.push_back(sum);
  }
  return sums;
}

const std::pair<Shape, Shape> kShapes[] = {{{7}, {7}},
                                           {{3, 7}, {7, 5}},
                                           {{7}, {7, 5}},
                                           {{3, 7}, {7}},
                                           {{2, 3, 7}, {7, 5}},
                                           {{2, 3, 7}, {2, 7, 5}},
                                           {{3, 7}, {2, 7, 5}},
                                           {{7}, {2, 7, 5}},
                                           {{2, 3, 7}, {7}},
                                           {{2, 1, 3, 7}, {4, 7, 5}},
                                           {{1, 3, 7}, {2, 7, 1}},
                                           {{1}, {1}},
                                           {{4, 2, 1, 7}, {1, 2, 7, 3}}};

TEST(Dense, ATT_09_EveryBroadcastEqualsTheLoops) {
  for (const auto& [left, right] : kShapes) {
    const Tensor a = random_tensor(left, 1), b = random_tensor(right, 2), out = matmul(a, b);
    expect_close(values(out), reference<double>(a, b, out), to_string(left) + to_string(right),
                 1e-14);
  }
}

TEST(Dense, NoWorseThanTwiceTheNaiveLoop) {
  for (const std::int64_t N : {1, 5, 6, 7, 97}) {
    for (const std::int64_t M : {1, 15, 16, 17, 48, 63, 64, 65, 130}) {
      for (const std::int64_t K : {1, 33, 300}) {
        const Tensor a = random_tensor({N, K}, 3, DType::kF32),
                     b = random_tensor({K, M}, 4, DType::kF32), out = matmul(a, b);
        const std::vector<double> found = values(out), truth = reference<double>(a, b, out);
        const std::vector<float> naive = reference<float>(a, b, out);
        double ours = 0, yardstick = 0, largest = 0;
        for (std::size_t i = 0; i < found.size(); ++i) {
          ours = std::max(ours, std::abs(found[i] - truth[i]));
          yardstick = std::max(yardstick, std::abs(double{naive[i]} - truth[i]));
          largest = std::max(largest, std::abs(truth[i]));
        }
        EXPECT_LE(ours, 2 * yardstick + 0x1p-24 * largest) << N << " " << M << " " << K;
      }
    }
  }
}

TEST(Dense, ShortTypesRoundOnce) {
  const Tensor a = random_tensor({3, 50}, 5, DType::kBF16),
               b = random_tensor({50, 4}, 6, DType::kBF16);
  EXPECT_EQ(values(matmul(a, b)),
            values(matmul(a.to(DType::kF32), b.to(DType::kF32)).to(DType::kBF16)));
}

TEST(Dense, TakesAnyStridesAndNoElements) {
  const Tensor a = random_tensor({8, 3, 5}, 7, DType::kF32).transpose(0, 2).slice(1, 0, 2),
               b = random_tensor({6, 8}, 8, DType::kF32).transpose(0, 1);
  EXPECT_EQ(values(matmul(a, b)), values(matmul(a.contiguous_copy(), b.contiguous_copy())));
  const Tensor wide = random_tensor({8, 1}, 9, DType::kF32).expand({8, 6});
  EXPECT_EQ(values(matmul(a, wide)), values(matmul(a, wide.contiguous_copy())));
  EXPECT_THAT(
      values(matmul(Tensor::zeros({2, 0}, DType::kF32), Tensor::zeros({0, 1}, DType::kF32))),
      ElementsAre(0, 0));
  EXPECT_EQ(
      matmul(Tensor::zeros({0, 3, 4}, DType::kF32), random_tensor({4, 2}, 1, DType::kF32)).shape(),
      Shape({0, 3, 2}));
}

TEST(Dense, ARowsBitsDependOnNothingElse) {
  const Tensor a = random_tensor({200, 130}, 10, DType::kF32),
               b = random_tensor({130, 150}, 11, DType::kF32);
  set_threads(1);
  const std::vector<double> one = values(matmul(a, b));
  for (const int threads : {2, 7}) {
    set_threads(threads);
    EXPECT_EQ(values(matmul(a, b)), one) << threads << " threads";
  }
  for (const std::int64_t n : {0, 97, 199}) {
    const std::vector<double> row = values(matmul(a.slice(0, n, n + 1), b));
    EXPECT_TRUE(std::equal(row.begin(), row.end(), one.begin() + n * 150)) << "row " << n;
  }
}

// With many rows, columns are packed once for all of them, some thousands at a time.
TEST(Dense, ManyRowsHaveTheBitsOfFew) {
  const struct {
    std::int64_t N, K, M;
  } cases[] = {{959, 40, 70}, {960, 40, 70}, {1201, 33, 130}, {965, 512, 4230}};
  for (const auto& [N, K, M] : cases) {
    const Tensor a = random_tensor({N, K}, 12, DType::kF32),
                 b = random_tensor({K, M}, 13, DType::kF32), all = matmul(a, b);
    for (const std::int64_t n : {std::int64_t{0}, std::int64_t{239}, std::int64_t{240}, N - 1}) {
      const Tensor few = matmul(a.slice(0, n, n + 1), b);
      EXPECT_TRUE(std::equal(few.data<float>(), few.data<float>() + M, all.data<float>() + n * M))
          << N << " x " << K << " x " << M << ", row " << n;
    }
  }
}

TEST(Dense, ATT_09_Backward) {
  for (const auto& [left, right] : kShapes) {
    SCOPED_TRACE(to_string(left) + to_string(right));
    const Tensor a = random_tensor(left, 12), b = random_tensor(right, 13);
    const Tensor dout = random_tensor(matmul(a, b).shape(), 14);
    const MatmulGradients both = matmul_backward(dout, a, b);
    expect_gradients([](const auto& in) { return matmul(in[0], in[1]); }, {a, b}, dout,
                     {both.da, both.db});
    const MatmulGradients narrow =
        matmul_backward(dout.to(DType::kF32), a.to(DType::kF32), b.to(DType::kF32));
    expect_close(values(narrow.da), values(both.da), "f32 a", 1e-5);
    expect_close(values(narrow.db), values(both.db), "f32 b", 1e-5);
    const MatmulGradients only_a = matmul_backward(dout, a, b, Want::kYes, Want::kNo),
                          only_b = matmul_backward(dout, a, b, Want::kNo, Want::kYes);
    EXPECT_EQ(values(only_a.da), values(both.da));
    EXPECT_EQ(values(only_b.db), values(both.db));
    EXPECT_EQ(only_a.db.elements() + only_b.da.elements(), 0);
  }
}

// The side that nobody wants is not computed: a product of its own would show in the memory.
TEST(Dense, BackwardComputesOnlyWhatIsWanted) {
  const Tensor a = random_tensor({1, 4000}, 15, DType::kF32),
               b = random_tensor({4000, 50}, 16, DType::kF32), dout = matmul(a, b);
  const auto peak = [&](Want want_da, Want want_db) {
    reset_peak_allocated_bytes();
    const std::int64_t before = allocated_bytes();
    (void)matmul_backward(dout, a, b, want_da, want_db);
    return peak_allocated_bytes() - before;
  };
  // da needs b the other way around, db is as large as b; neither without its want.
  EXPECT_GE(peak(Want::kNo, Want::kYes), b.bytes());
  EXPECT_GE(peak(Want::kYes, Want::kNo), a.bytes());
  EXPECT_EQ(peak(Want::kNo, Want::kNo), 0);
  const Tensor poison = tensor_of({std::nan("")}, {1, 1}, DType::kF32).expand({1, 4000});
  for (const double x : values(matmul_backward(dout, poison, b, Want::kYes, Want::kNo).da))
    EXPECT_FALSE(std::isnan(x));
}

TEST(Dense, Errors) {
  const Tensor a = Tensor::zeros({2, 3}, DType::kF32);
  EXPECT_THAT(
      [&] { (void)matmul(a, a); },
      ThrowsMessage<ArgumentError>("matmul: dimension 1 of a is 3, but dimension 0 of b is 2"));
  EXPECT_THAT([&] { (void)matmul(a, Tensor::zeros({}, DType::kF32)); },
              ThrowsMessage<ArgumentError>("matmul: b has rank 0, expected at least 1"));
  EXPECT_THAT([&] { (void)matmul(a, Tensor::zeros({3}, DType::kF64)); },
              ThrowsMessage<ArgumentError>("matmul: a is f32, but b is f64"));
  EXPECT_THROW((void)matmul(a.to(DType::kI32), a.to(DType::kI32)), ArgumentError);
  EXPECT_THAT(
      [&] {
        (void)matmul(Tensor::zeros({2, 2, 3}, DType::kF32), Tensor::zeros({3, 3, 1}, DType::kF32));
      },
      ThrowsMessage<ArgumentError>("matmul: dimension 0 of a is 2, but of b it is 3"));
  EXPECT_THAT(
      [&] {
        (void)matmul_backward(a, a, Tensor::zeros({3, 2}, DType::kF32));
      },
      ThrowsMessage<ArgumentError>(
          "matmul_backward: dout has shape [2, 3], but a·b has shape [2, 2]"));
}

}  // namespace
}  // namespace quire

#include "quire/ops/math/loss.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <limits>

#include "quire/base/error.h"
#include "quire/base/thread_pool.h"
#include "tests/support/gradient_check.h"

namespace quire {
namespace {

using test::expect_close;
using test::index_of;
using test::random_tensor;
using test::tensor_of;
using test::values;
using testing::ElementsAre;
using testing::ThrowsMessage;

template <class T>
T reference(const std::vector<T>& logits, const std::vector<std::int64_t>& target, std::size_t V,
            std::int64_t ignore) {
  T sum = 0;
  double rows = 0;
  for (std::size_t n = 0; n < target.size(); ++n) {
    if (target[n] == ignore) continue;
    T total = 0;
    for (std::size_t v = 0; v < V; ++v) total += std::exp(logits[n * V + v]);
    sum += std::log(total) - logits[n * V + static_cast<std::size_t>(target[n])];
    rows += 1;
  }
  return sum / rows;
}

TEST(CrossEntropy, HandWorked) {
  // Equal logits: log 4 in every row.
  for (const DType dtype : {DType::kF64, DType::kF32}) {
    const CrossEntropy out =
        cross_entropy(tensor_of(std::vector<double>(8, 3.0), {2, 4}, dtype), index_of({0, 3}, {2}));
    EXPECT_EQ(out.loss.rank(), 0);
    EXPECT_NEAR(values(out.loss)[0], std::log(4.0), dtype == DType::kF64 ? 1e-15 : 1e-7);
    EXPECT_NEAR(values(out.lse_N)[1], 3 + std::log(4.0), dtype == DType::kF64 ? 1e-15 : 1e-6);
  }
}

TEST(CrossEntropy, OTH_05_EqualsTheReferenceAndItsComplexStep) {
  using C = std::complex<double>;
  const std::vector<std::int64_t> target = {4, 0, -100, 2, 4};
  const Tensor logits = random_tensor({5, 6}, 1), target_N = index_of(target, {5});
  const CrossEntropy out = cross_entropy(logits, target_N);
  EXPECT_NEAR(values(out.loss)[0], reference(values(logits), target, 6, -100), 1e-14);
  const Tensor dloss = tensor_of({-1.7}, {});
  const Tensor dlogits = cross_entropy_backward(dloss, logits, target_N, out.lse_N);
  const auto analytic = [&](const std::vector<std::vector<C>>& in) {
    return std::vector<C>{reference(in[0], target, 6, -100)};
  };
  expect_close(values(dlogits), test::complex_step(analytic, {values(logits)}, 0, {-1.7}), "step",
               1e-14);
  test::expect_gradients([&](const auto& in) { return cross_entropy(in[0], target_N).loss; },
                         {logits}, dloss, {dlogits});
  for (int v = 0; v < 6; ++v) EXPECT_EQ(values(dlogits)[static_cast<std::size_t>(12 + v)], 0);
  EXPECT_EQ(values(cross_entropy(logits, target_N.to(DType::kI32)).loss), values(out.loss));
}

TEST(CrossEntropy, ShortTypesComputeInWideOnes) {
  const Tensor logits = random_tensor({4, 9}, 2, DType::kBF16),
               target = index_of({1, 2, 3, 8}, {4});
  const double truth = values(cross_entropy(logits.to(DType::kF64), target).loss)[0];
  EXPECT_EQ(values(cross_entropy(logits, target).loss)[0],
            values(tensor_of({truth}, {1}, DType::kBF16))[0]);
}

TEST(CrossEntropy, LargeAndInfiniteLogits) {
  const double inf = std::numeric_limits<double>::infinity();
  const Tensor logits = tensor_of({1000, 0, -inf, 5}, {2, 2});
  EXPECT_EQ(values(cross_entropy(logits, index_of({0, 1}, {2})).loss)[0], 0);
  EXPECT_EQ(values(cross_entropy(logits, index_of({1, 1}, {2})).loss)[0], 500);
}

TEST(CrossEntropy, NoRows) {
  EXPECT_TRUE(std::isnan(
      values(cross_entropy(Tensor::zeros({0, 3}, DType::kF32), index_of({}, {0})).loss)[0]));
  const Tensor logits = random_tensor({2, 3}, 3);
  EXPECT_TRUE(std::isnan(values(cross_entropy(logits, index_of({7, 7}, {2}), 7).loss)[0]));
}

TEST(CrossEntropy, TheSameBitsWithAnyNumberOfThreads) {
  const Tensor logits = random_tensor({90, 201}, 4, DType::kF32);
  const Tensor target = index_of(std::vector<std::int64_t>(90, 200), {90});
  set_threads(1);
  const CrossEntropy one = cross_entropy(logits, target);
  const Tensor dloss = tensor_of({1}, {}, DType::kF32);
  const auto slope = [&] {
    return values(cross_entropy_backward(dloss, logits, target, one.lse_N));
  };
  const std::vector<double> first = slope();
  for (const int threads : {2, 7}) {
    set_threads(threads);
    EXPECT_EQ(values(cross_entropy(logits, target).loss), values(one.loss));
    EXPECT_EQ(slope(), first);
  }
}

TEST(CrossEntropy, Errors) {
  const Tensor logits = Tensor::zeros({2, 3}, DType::kF32);
  EXPECT_THAT(
      [&] {
        (void)cross_entropy(logits, index_of({0, 3}, {2}));
      },
      ThrowsMessage<ArgumentError>("target_N[1] is 3, but logits_NV has V = 3"));
  EXPECT_THROW((void)cross_entropy(logits, index_of({-1, 0}, {2})), ArgumentError);
  EXPECT_THAT([&] { (void)cross_entropy(logits, index_of({0}, {1})); },
              ThrowsMessage<ArgumentError>("logits_NV: N is 2, but target_N has N = 1"));
  EXPECT_THROW((void)cross_entropy(logits, Tensor::zeros({2}, DType::kF32)), ArgumentError);
  EXPECT_THROW((void)cross_entropy(Tensor::zeros({2, 0}, DType::kF32), index_of({0, 0}, {2})),
               ArgumentError);
  const CrossEntropy out = cross_entropy(logits, index_of({0, 1}, {2}));
  EXPECT_THROW((void)cross_entropy_backward(logits, logits, index_of({0, 1}, {2}), out.lse_N),
               ArgumentError);
  EXPECT_THROW((void)cross_entropy_backward(out.loss, logits, index_of({0, 1}, {2}),
                                            out.lse_N.to(DType::kF32)),
               ArgumentError);
}

}  // namespace
}  // namespace quire

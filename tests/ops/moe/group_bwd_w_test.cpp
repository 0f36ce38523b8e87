#include "quire/ops/moe/group_bwd_w.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include "quire/base/error.h"
#include "quire/base/thread_pool.h"
#include "tests/ops/moe/moe_case.h"

namespace quire {
namespace {

using test::index_of;
using test::random_tensor;
using test::tensor_of;
using test::values;
using testing::ElementsAre;

template <class T>
std::vector<T> reference(const Tensor& x, const Tensor& dy, const ExpertOrder& order) {
  const std::vector<double> from_x = values(x), from_dy = values(dy);
  const auto D = static_cast<std::size_t>(x.size(1)), F = static_cast<std::size_t>(dy.size(1));
  std::vector<T> out(static_cast<std::size_t>(order.experts()) * D * F);
  std::size_t m = 0;
  for (const std::int64_t e : test::integers(sorted_experts(order))) {
    for (std::size_t d = 0; d < D; ++d)
      for (std::size_t f = 0; f < F; ++f)
        out[(static_cast<std::size_t>(e) * D + d) * F + f] +=
            static_cast<T>(from_x[m * D + d]) * static_cast<T>(from_dy[m * F + f]);
    ++m;
  }
  return out;
}

TEST(GroupBwdW, MOE_03_ByHandWithAnEmptyExpert) {
  const ExpertOrder order = expert_order(index_of({2, 0, 2}, {3, 1}), 3);
  for (const DType dtype : {DType::kF64, DType::kF32, DType::kBF16, DType::kF16}) {
    const Tensor x = tensor_of({1, 2, 3, 4, 5, 6}, {3, 2}, dtype),
                 dy = tensor_of({1, 4, 16}, {3, 1}, dtype);
    EXPECT_THAT(values(group_bwd_w(x, dy, order)), ElementsAre(1, 2, 0, 0, 92, 112));
    EXPECT_THAT(values(group_bwd_bias(dy, order)), ElementsAre(1, 0, 20));
  }
}

TEST(GroupBwdW, MOE_03_NoWorseThanTwiceTheNaiveLoop) {
  for (const std::int64_t D : {1, 5, 6, 7, 200}) {
    for (const std::int64_t F : {1, 16, 63, 65}) {
      const ExpertOrder order = expert_order(test::random_experts(300, 1, 2, 1), 3);
      const Tensor x = random_tensor({300, D}, 2, DType::kF32),
                   dy = random_tensor({300, F}, 3, DType::kF32);
      const std::vector<double> found = values(group_bwd_w(x, dy, order)),
                                truth = reference<double>(x, dy, order);
      const std::vector<float> naive = reference<float>(x, dy, order);
      double ours = 0, yardstick = 0, largest = 0;
      for (std::size_t i = 0; i < found.size(); ++i) {
        ours = std::max(ours, std::abs(found[i] - truth[i]));
        yardstick = std::max(yardstick, std::abs(double{naive[i]} - truth[i]));
        largest = std::max(largest, std::abs(truth[i]));
      }
      EXPECT_LE(ours, 2 * yardstick + 0x1p-24 * largest) << D << " " << F;
    }
  }
}

TEST(GroupBwdW, TheSameBitsWithAnyNumberOfThreads) {
  const ExpertOrder order = expert_order(test::random_experts(500, 1, 3, 1), 3);
  const Tensor x = random_tensor({500, 210}, 2, DType::kF32),
               dy = random_tensor({500, 130}, 3, DType::kF32);
  set_threads(1);
  const std::vector<double> one = values(group_bwd_w(x, dy, order));
  for (const int threads : {2, 7}) {
    set_threads(threads);
    EXPECT_EQ(values(group_bwd_w(x, dy, order)), one);
  }
  set_threads(2);
}

TEST(GroupBwdW, Errors) {
  const ExpertOrder order = expert_order(index_of({2, 0, 2}, {3, 1}), 3);
  const Tensor x = Tensor::zeros({3, 2}, DType::kF32);
  EXPECT_THROW((void)group_bwd_w(x, Tensor::zeros({2, 2}, DType::kF32), order), ArgumentError);
  EXPECT_THROW((void)group_bwd_w(x, Tensor::zeros({3, 2}, DType::kF64), order), ArgumentError);
  EXPECT_THROW((void)group_bwd_w(x.slice(0, 0, 2), x.slice(0, 0, 2), order), ArgumentError);
  EXPECT_THROW((void)group_bwd_bias(x.slice(0, 0, 2), order), ArgumentError);
}

}  // namespace
}  // namespace quire

#include "quire/ops/moe/group.h"

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
using testing::ThrowsMessage;

TEST(Group, MOE_03_ByHand) {
  const ExpertOrder order = expert_order(index_of({1, 0, 0, 1}, {2, 2}), 3);
  for (const DType dtype : {DType::kF64, DType::kF32, DType::kBF16, DType::kF16}) {
    const Tensor a = tensor_of({1, 2, 3, 4}, {2, 2}, dtype);
    EXPECT_THAT(values(group(a, order, 2)), ElementsAre(1, 2, 3, 4, 1, 2, 3, 4));
    const Tensor factor = tensor_of({2, 3, 4, 5}, {2, 2}, dtype);
    EXPECT_THAT(values(group(a, order, 2, factor)), ElementsAre(3, 6, 12, 16, 2, 4, 15, 20));
    EXPECT_EQ(group(a, order, 2).dtype(), dtype);
    const Tensor rows = tensor_of({1, 2, 3, 4, 5, 6, 7, 8}, {4, 2}, dtype);
    EXPECT_THAT(values(combine(rows, 2)), ElementsAre(4, 6, 12, 14));
    EXPECT_THAT(values(combine(rows, factor)), ElementsAre(11, 16, 55, 64));
  }
}

TEST(Group, MOE_03_EverySizeOfRow) {
  for (const std::int64_t D : {1, 15, 16, 17, 33, 100}) {
    const ExpertOrder order = expert_order(test::random_experts(60, 3, 5, 1, true), 5);
    const Tensor a = random_tensor({180, D}, 2, DType::kF32);
    EXPECT_EQ(values(group(a, order, 1)), values(test::grouped_rows(a, order)));
    const Tensor wide = random_tensor({D, 60}, 3, DType::kF32).transpose(0, 1);
    EXPECT_EQ(values(group(wide, order, 3)), values(group(wide.contiguous_copy(), order, 3)));
  }
}

TEST(Group, MOE_14_CombiningRepeatsItsBits) {
  const Tensor rows = random_tensor({3000, 70}, 4, DType::kF32),
               gates = random_tensor({1000, 3}, 5, DType::kF32);
  set_threads(1);
  const std::vector<double> one = values(combine(rows, gates));
  std::vector<double> expected(70000);
  const std::vector<double> r = values(rows), g = values(gates);
  for (std::size_t i = 0; i < 210000; ++i) expected[i / 210 * 70 + i % 70] += r[i] * g[i / 70];
  test::expect_close(one, expected, "combine", 1e-6);
  for (const int threads : {2, 7}) {
    set_threads(threads);
    EXPECT_EQ(values(combine(rows, gates)), one);
  }
  set_threads(2);
}

TEST(Group, Errors) {
  const ExpertOrder order = expert_order(index_of({1, 0, 0, 1}, {2, 2}), 2);
  const Tensor a = Tensor::zeros({2, 2}, DType::kF32);
  EXPECT_THAT([&] { (void)group(a, order, 1); },
              ThrowsMessage<ArgumentError>("a has shape [2, 2], expected [4, 2]"));
  EXPECT_THAT([&] { (void)group(a, order, 0); },
              ThrowsMessage<ArgumentError>("fan is 0, expected at least 1"));
  EXPECT_THROW((void)group(a, order, 2, Tensor::zeros({3}, DType::kF32)), ArgumentError);
  EXPECT_THROW((void)group(a, order, 2, Tensor::zeros({4}, DType::kF64)), ArgumentError);
  EXPECT_THROW((void)combine(a, 3), ArgumentError);
  EXPECT_THROW((void)combine(a, Tensor::zeros({3, 1}, DType::kF32)), ArgumentError);
}

}  // namespace
}  // namespace quire

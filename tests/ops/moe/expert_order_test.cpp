#include "quire/ops/moe/expert_order.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include "quire/base/error.h"
#include "quire/base/thread_pool.h"
#include "tests/ops/moe/moe_case.h"

namespace quire {
namespace {

using test::index_of;
using test::integers;
using testing::ElementsAre;
using testing::ThrowsMessage;

TEST(ExpertOrder, MOE_13_ByExpertThenBySlot) {
  const ExpertOrder order = expert_order(index_of({2, 0, 2, 2, 0, 1}, {3, 2}), 4);
  EXPECT_THAT(integers(order.slot_M()), ElementsAre(1, 4, 5, 0, 2, 3));
  EXPECT_THAT(integers(order.start_J()), ElementsAre(0, 2, 3, 6, 6));
  EXPECT_THAT(integers(sorted_experts(order)), ElementsAre(0, 0, 1, 2, 2, 2));
  EXPECT_EQ(order.experts(), 4);
  EXPECT_EQ(order.slots(), 6);
}

TEST(ExpertOrder, MOE_13_EqualsAStableSortWithAnyNumberOfThreads) {
  const Tensor experts = test::random_experts(700, 3, 17, 1, true);
  const std::vector<std::int64_t> from = integers(experts);
  std::vector<std::int64_t> expected;
  for (std::int64_t slot = 0; slot < 2100; ++slot)
    if (from[static_cast<std::size_t>(slot)] >= 0) expected.push_back(slot);
  std::stable_sort(expected.begin(), expected.end(), [&](std::int64_t a, std::int64_t b) {
    return from[static_cast<std::size_t>(a)] < from[static_cast<std::size_t>(b)];
  });
  for (const int threads : {1, 2, 7}) {
    set_threads(threads);
    EXPECT_EQ(integers(expert_order(experts, 17).slot_M()), expected);
  }
  set_threads(2);
}

TEST(ExpertOrder, MOE_15_MOE_17_TwiceInATokenAndNotHere) {
  const ExpertOrder order = expert_order(index_of({1, 1, -1, 1, 0, -1}, {3, 2}).to(DType::kI32), 2);
  EXPECT_THAT(integers(order.slot_M()), ElementsAre(4, 0, 1, 3));
  EXPECT_EQ(order.slots(), 6);
  EXPECT_EQ(order.rows(), 4);
  const Tensor global = index_of({3, 0, 1, -1}, {2, 2}), map = index_of({1, -1, 2, 0}, {4});
  EXPECT_THAT(integers(map_experts(global, map)), ElementsAre(0, 1, -1, -1));
}

TEST(ExpertOrder, MOE_12_ConventionsConvertWithoutLoss) {
  for (const std::int64_t N : {0, 1, 5, 100}) {
    const ExpertOrder order = expert_order(test::random_experts(N, 3, 6, 2, true), 6);
    const auto same = [&](const ExpertOrder& other) {
      EXPECT_EQ(integers(other.slot_M()), integers(order.slot_M())) << N;
      EXPECT_EQ(integers(other.start_J()), integers(order.start_J())) << N;
      EXPECT_EQ(other.slots(), order.slots());
    };
    same(order_of_ends(order.slot_M(), inclusive_ends(order), order.slots()));
    same(ExpertOrder(order.slot_M(), order.start_J(), order.slots()));
    for (const std::int64_t rows : {1, 4, 16, 64})
      same(order_of_blocks(padded_blocks(order, rows), 6, order.slots()));
  }
}

TEST(ExpertOrder, MOE_12_PaddedAsInVllm) {
  const ExpertOrder order = expert_order(index_of({0, 2, 2, 2, 0, 2}, {3, 2}), 3);
  const PaddedBlocks blocks = padded_blocks(order, 3);
  EXPECT_THAT(integers(blocks.slot), ElementsAre(0, 4, 6, 1, 2, 3, 5, 6, 6));
  EXPECT_THAT(integers(blocks.expert), ElementsAre(0, 2, 2));
}

TEST(ExpertOrder, Errors) {
  EXPECT_THAT(
      [] {
        (void)expert_order(index_of({0, 3}, {1, 2}), 3);
      },
      ThrowsMessage<ArgumentError>("experts_NC[1] is 3, expected -1 to 2"));
  EXPECT_THAT(
      [] {
        (void)expert_order(index_of({0}, {1, 1}), 0);
      },
      ThrowsMessage<ArgumentError>("E is 0, expected at least 1"));
  EXPECT_THAT(
      [] {
        (void)ExpertOrder(index_of({0, 0}, {2}), index_of({0, 2}, {2}), 2);
      },
      ThrowsMessage<ArgumentError>("slot_M[1] is 0, which stood before"));
  EXPECT_THAT(
      [] {
        (void)ExpertOrder(index_of({0, 1}, {2}), index_of({0, 2, 1, 2}, {4}), 2);
      },
      ThrowsMessage<ArgumentError>("start_J[2] is 1, less than start_J[1] = 2"));
  EXPECT_THAT(
      [] {
        (void)ExpertOrder(index_of({0, 2}, {2}), index_of({0, 2}, {2}), 2);
      },
      ThrowsMessage<ArgumentError>("slot_M[1] is 2, expected 0 to 1"));
  EXPECT_THAT(
      [] {
        (void)ExpertOrder(index_of({0, 1}, {2}), index_of({0, 1}, {2}), 2);
      },
      ThrowsMessage<ArgumentError>("start_J runs from 0 to 1, expected 0 to M = 2"));
  EXPECT_THAT(
      [] {
        (void)ExpertOrder(index_of({0, 1}, {2}), index_of({0, 2}, {2}), 1);
      },
      ThrowsMessage<ArgumentError>("slots is 1, but slot_M has M = 2"));
  EXPECT_THROW((void)map_experts(index_of({4}, {1, 1}), index_of({0}, {1})), ArgumentError);
  EXPECT_THROW((void)padded_blocks(expert_order(index_of({0}, {1, 1}), 1), 0), ArgumentError);
  EXPECT_THAT(
      [] {
        (void)order_of_blocks({index_of({0, 1}, {2}), index_of({1, 0}, {2})}, 2, 2);
      },
      ThrowsMessage<ArgumentError>("expert 0 has a block behind those of a later expert"));
  EXPECT_THROW((void)expert_order(Tensor::zeros({1, 1}, DType::kF32), 1), ArgumentError);
}

}  // namespace
}  // namespace quire

#include "quire/ops/moe/expert_weights.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include "quire/base/error.h"
#include "tests/ops/moe/packed_experts.h"
#include "tests/support/gradient_check.h"

namespace quire {
namespace {

using test::random_tensor;
using testing::ThrowsMessage;

TEST(ExpertWeightsTest, DenseViewsShareMemory) {
  const Tensor stored = random_tensor({3, 4, 5}, 1, DType::kF32);
  const ExpertWeights weights(stored.transpose(1, 2));
  EXPECT_EQ(weights.experts(), 3);
  EXPECT_EQ(weights.inputs(), 5);
  EXPECT_EQ(weights.outputs(), 4);
  EXPECT_EQ(weights.dense_EDF().data<float>(), stored.data<float>());
  EXPECT_EQ(weights.turned().inputs(), 4);
  EXPECT_EQ(weights.turned().dense_EDF().data<float>(), stored.data<float>());
  EXPECT_FALSE(weights.is_packed());
}

TEST(ExpertWeightsTest, StridesOfBothDimensionsAreMadeReadable) {
  const Tensor wide = random_tensor({4, 6, 3}, 2, DType::kF32).transpose(0, 2);
  EXPECT_EQ(test::values(ExpertWeights(wide).dense_EDF()), test::values(wide));
}

TEST(ExpertWeightsTest, MOE_19_PackedWeightsTurnWithoutACopy) {
  const test::PackedExperts packed = test::random_packed(WeightType::kQ8_0, 2, 64, 32, 1);
  EXPECT_EQ(packed.weights.inputs(), 64);
  EXPECT_EQ(packed.weights.outputs(), 32);
  EXPECT_EQ(packed.weights.turned().inputs(), 32);
  EXPECT_TRUE(packed.weights.turned().is_turned());
  EXPECT_FALSE(packed.weights.turned().turned().is_turned());
  EXPECT_EQ(packed.weights.turned().packed()[1].panels(), packed.weights.packed()[1].panels());
}

TEST(ExpertWeightsTest, Errors) {
  EXPECT_THAT(
      [] {
        (void)ExpertWeights(Tensor::zeros({2, 3}, DType::kF32));
      },
      ThrowsMessage<ArgumentError>("weight_EDF: rank is 2, expected 3"));
  EXPECT_THROW((void)ExpertWeights(Tensor::zeros({1, 1, 1}, DType::kI32)), ArgumentError);
  EXPECT_THROW((void)ExpertWeights(std::vector<Weight>{}), ArgumentError);
  Rng rng(1);
  EXPECT_THAT(
      [&] {
        (void)ExpertWeights({test::random_weight(WeightType::kQ8_0, 16, 32, rng),
                             test::random_weight(WeightType::kQ4_1, 16, 32, rng)});
      },
      ThrowsMessage<ArgumentError>("experts: one weight is Q4_1, but another is Q8_0"));
  EXPECT_THAT(
      [&] {
        (void)ExpertWeights({test::random_weight(WeightType::kQ8_0, 16, 32, rng),
                             test::random_weight(WeightType::kQ8_0, 16, 64, rng)});
      },
      ThrowsMessage<ArgumentError>("experts: one weight is 16 × 64, but another is 16 × 32"));
}

}  // namespace
}  // namespace quire

#include "quire/ops/moe/expert_mlp.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include "quire/base/error.h"
#include "quire/base/thread_pool.h"
#include "tests/ops/moe/moe_case.h"
#include "tests/ops/moe/packed_experts.h"

namespace quire {
namespace {

using test::expect_close;
using test::index_of;
using test::random_tensor;
using test::tensor_of;
using test::values;

struct Case {
  Tensor experts, x, gates, dout;
  ExpertOrder order;
  ExpertMlp mlp;

  Case(std::int64_t N, std::int64_t D, std::int64_t F, ExpertActivation activation, bool bias,
       DType dtype, bool holes = false)
      : experts(test::random_experts(N, 2, 3, 1, holes)),
        x(random_tensor({N, D}, 2, dtype)),
        gates(random_tensor({N, 2}, 3, dtype)),
        dout(random_tensor({N, D}, 4, dtype)),
        order(expert_order(experts, 3)),
        mlp{{test::MoeCase::scaled({3, D, wide(F, activation)}, 5, dtype, D), std::nullopt},
            {test::MoeCase::scaled({3, F, D}, 6, dtype, F), std::nullopt},
            activation} {
    if (!bias) return;
    mlp.up.bias_EF = random_tensor({3, wide(F, activation)}, 7, dtype);
    mlp.down.bias_EF = random_tensor({3, D}, 8, dtype);
  }
  static std::int64_t wide(std::int64_t F, const ExpertActivation& a) {
    return takes_pairs(a.kind) ? 2 * F : F;
  }
};

TEST(ExpertMlpTest, MOE_01_TheGoldenCase) {
  std::vector<double> w1(12), w2(12);
  for (std::size_t i = 0; i < 12; ++i) {
    w1[i] = (static_cast<double>(i) - 5) / 10;
    w2[i] = (static_cast<double>(i) - 3) / 7;
  }
  const ExpertMlp mlp{{tensor_of(w1, {3, 2, 2}), std::nullopt},
                      {tensor_of(w2, {3, 2, 2}), std::nullopt},
                      {ActivationKind::kRelu, PairLayout::kHalves}};
  const ExpertOrder order = expert_order(index_of({0, 2, 2, 1, 0, 1}, {3, 2}), 3);
  const Tensor x = tensor_of({1, 2, 3, -1, 0, 4}, {3, 2}),
               gates = tensor_of({.75, .25, .6, .4, .5, .5}, {3, 2}),
               dy = tensor_of({1, -1, 2, .5, -1, 3}, {3, 2});
  expect_close(values(expert_mlp(x, mlp, order, gates).out_ND),
               {0.632142857142857, 0.735714285714286, 0.531428571428571, 0.617142857142857, 0.2,
                0.285714285714286},
               "y", 1e-8);
  const ExpertMlpGradients g = expert_mlp_backward(dy, x, mlp, order, gates);
  expect_close(values(g.dx_ND),
               {-0.025, -0.039285714285714, 0.951428571428571, 1.482857142857143,
                -0.035714285714286, 0.164285714285714},
               "dx", 1e-8);
  expect_close(values(g.dgates_NC),
               {0, -0.414285714285714, 2.285714285714286, 0, 0, 1.314285714285714}, "dgates", 1e-8);
  expect_close(values(g.dup.slice(0, 0, 2)),
               {0, 0, 0, 0, 0, 0, 1.428571428571429, 2.571428571428571}, "dW1", 1e-8);
}

TEST(ExpertMlpTest, MOE_05_GradientsAreSlopes) {
  for (const ActivationKind kind : {ActivationKind::kSwiglu, ActivationKind::kGelu}) {
    const ExpertActivation activation{kind, PairLayout::kInterleaved};
    const Case c(4, 3, 2, activation, true, DType::kF64, true);
    const ExpertMlpGradients g = expert_mlp_backward(c.dout, c.x, c.mlp, c.order, c.gates);
    test::expect_gradients(
        [&](const std::vector<Tensor>& in) {
          return expert_mlp(in[0], {{in[1], in[2]}, {in[3], in[4]}, activation}, c.order, in[5])
              .out_ND;
        },
        {c.x, c.mlp.up.weight_EDF.dense_EDF(), *c.mlp.up.bias_EF, c.mlp.down.weight_EDF.dense_EDF(),
         *c.mlp.down.bias_EF, c.gates},
        c.dout, {g.dx_ND, g.dup, g.dup_bias, g.ddown, g.ddown_bias, g.dgates_NC});
  }
}

TEST(ExpertMlpTest, MOE_16_TheFusedActivationHasTheBitsOfTheParts) {
  for (const ActivationKind kind :
       {ActivationKind::kSwiglu, ActivationKind::kSwigluClamped, ActivationKind::kGlu,
        ActivationKind::kGeglu, ActivationKind::kReglu, ActivationKind::kRelu2,
        ActivationKind::kGelu}) {
    for (const PairLayout layout : {PairLayout::kHalves, PairLayout::kInterleaved}) {
      for (const DType dtype : {DType::kF64, DType::kF32, DType::kBF16}) {
        const ExpertActivation activation{kind, layout};
        const Case c(50, 70, 45, activation, true, dtype, true);
        const ScatterSpec rise{RowOrder::kScattered, RowOrder::kGrouped, 2},
            fall{RowOrder::kGrouped, RowOrder::kScattered, 1};
        const Tensor pre = scattered_experts(c.x, c.mlp.up, c.order, rise);
        const Tensor out =
            scattered_experts(activate(pre, activation), c.mlp.down, c.order, fall, c.gates);
        const ExpertMlpResult kept = expert_mlp(c.x, c.mlp, c.order, c.gates, Keep::kPre);
        EXPECT_EQ(values(kept.out_ND), values(out));
        EXPECT_EQ(values(kept.pre), values(pre));
        const ExpertMlpResult bare = expert_mlp(c.x, c.mlp, c.order, c.gates);
        EXPECT_EQ(values(bare.out_ND), values(out));
        EXPECT_EQ(bare.pre.elements(), 0);
      }
    }
  }
}

TEST(ExpertMlpTest, MOE_09_ComputedAgainTheGradientsHaveTheSameBits) {
  const Case c(60, 40, 33, {}, true, DType::kF32);
  const ExpertMlpResult kept = expert_mlp(c.x, c.mlp, c.order, c.gates, Keep::kPre);
  const auto one = expert_mlp_backward(c.dout, c.x, c.mlp, c.order, c.gates, kept.pre),
             two = expert_mlp_backward(c.dout, c.x, c.mlp, c.order, c.gates);
  EXPECT_EQ(values(one.dx_ND), values(two.dx_ND));
  EXPECT_EQ(values(one.dup), values(two.dup));
  EXPECT_EQ(values(one.ddown), values(two.ddown));
  EXPECT_EQ(values(one.dgates_NC), values(two.dgates_NC));
}

TEST(ExpertMlpTest, MOE_14_TheSameBitsWithAnyNumberOfThreads) {
  const Case c(300, 140, 70, {}, true, DType::kF32);
  set_threads(1);
  const std::vector<double> out = values(expert_mlp(c.x, c.mlp, c.order, c.gates).out_ND);
  const auto one = expert_mlp_backward(c.dout, c.x, c.mlp, c.order, c.gates);
  for (const int threads : {2, 7}) {
    set_threads(threads);
    EXPECT_EQ(values(expert_mlp(c.x, c.mlp, c.order, c.gates).out_ND), out);
    const auto found = expert_mlp_backward(c.dout, c.x, c.mlp, c.order, c.gates);
    EXPECT_EQ(values(found.dx_ND), values(one.dx_ND));
    EXPECT_EQ(values(found.dup), values(one.dup));
    EXPECT_EQ(values(found.dgates_NC), values(one.dgates_NC));
  }
  set_threads(2);
}

TEST(ExpertMlpTest, MOE_19_QuantizedExpertsForwardAndBackward) {
  for (const WeightType type : {WeightType::kQ4_1, WeightType::kQ8_0}) {
    const test::PackedExperts up = test::random_packed(type, 3, 64, 192, 1),
                              down = test::random_packed(type, 3, 96, 64, 2);
    const Case c(40, 64, 96, {}, false, DType::kF32);
    const ExpertMlp packed{{up.weights, {}}, {down.weights, {}}, {}},
        dense{{up.dense_EDF, {}}, {down.dense_EDF, {}}, {}};
    EXPECT_EQ(values(expert_mlp(c.x, packed, c.order, c.gates).out_ND),
              values(expert_mlp(c.x, dense, c.order, c.gates).out_ND));
    const auto found = expert_mlp_backward(c.dout, c.x, packed, c.order, c.gates),
               expected = expert_mlp_backward(c.dout, c.x, dense, c.order, c.gates);
    EXPECT_EQ(values(found.dx_ND), values(expected.dx_ND));
    EXPECT_EQ(values(found.dgates_NC), values(expected.dgates_NC));
    EXPECT_EQ(found.dup.elements(), 0);
  }
}

TEST(ExpertMlpTest, MOE_19_HalvesThatDoNotBeginWithAPanel) {
  const test::PackedExperts up = test::random_packed(WeightType::kQ8_0, 3, 64, 42, 1);
  const Case c(40, 64, 21, {}, true, DType::kF32);
  const ExpertMlp packed{{up.weights, c.mlp.up.bias_EF}, c.mlp.down, {}},
      dense{{up.dense_EDF, c.mlp.up.bias_EF}, c.mlp.down, {}};
  EXPECT_EQ(values(expert_mlp(c.x, packed, c.order, c.gates).out_ND),
            values(expert_mlp(c.x, dense, c.order, c.gates).out_ND));
}

TEST(ExpertMlpTest, Errors) {
  const Case c(4, 6, 5, {}, false, DType::kF32);
  EXPECT_THROW((void)expert_mlp(c.x, {c.mlp.down, c.mlp.up, {}}, c.order, c.gates), ArgumentError);
  EXPECT_THROW((void)expert_mlp(c.x, c.mlp, c.order, c.gates.slice(0, 0, 3)), ArgumentError);
  EXPECT_THROW((void)expert_mlp_backward(c.dout.slice(1, 0, 5), c.x, c.mlp, c.order, c.gates),
               ArgumentError);
  EXPECT_THROW((void)expert_mlp(c.x.to(DType::kF64), c.mlp, c.order, c.gates), ArgumentError);
  EXPECT_THROW((void)expert_mlp_backward(c.dout, c.x, c.mlp, c.order, c.gates, c.x), ArgumentError);
}

}  // namespace
}  // namespace quire

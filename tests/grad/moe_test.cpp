#include "quire/grad/moe.h"

#include <gtest/gtest.h>

#include "quire/grad/math.h"
#include "quire/grad/tape.h"
#include "tests/ops/moe/moe_case.h"
#include "tests/ops/moe/packed_experts.h"
#include "tests/support/tape_check.h"

namespace quire::grad {
namespace {

using test::expect_tape_gradients;
using test::index_of;
using test::random_experts;
using test::random_tensor;
using test::values;

constexpr RowOrder kScattered = RowOrder::kScattered, kGrouped = RowOrder::kGrouped;

TEST(GradMoe, MOE_10_MOE_11_B11_TheRouterAndItsLosses) {
  const Tensor logits = random_tensor({5, 6}, 1), experts = random_experts(5, 2, 6, 2);
  for (const GateScore score :
       {GateScore::kTopKSoftmax, GateScore::kSoftmaxTopK, GateScore::kSigmoid}) {
    const RoutingSpec spec{.C = 2, .score = score, .renormalise = Renormalise::kYes};
    expect_tape_gradients([&](const auto& in) { return route(in[0], spec).gates_NC; }, {logits});
  }
  expect_tape_gradients([&](const auto& in) { return balance_loss(in[0], experts); }, {logits});
  expect_tape_gradients([&](const auto& in) { return z_loss(in[0]); }, {logits});
}

TEST(GradMoe, MOE_08_FourModesTwiceIsDouble) {
  const std::pair<ScatterSpec, bool> modes[] = {{{kScattered, kGrouped, 2}, false},
                                                {{kGrouped, kScattered, 1}, true},
                                                {{kScattered, kScattered, 2}, true},
                                                {{kScattered, kScattered, 2}, false},
                                                {{kGrouped, kGrouped, 1}, false}};
  for (const auto& [spec, gated] : modes) {
    const ScatterSpec mode = spec;
    const test::MoeCase c({.N = 4, .D = 3, .F = 2, .bias = true, .gates = gated}, mode, DType::kF64,
                          3);
    std::vector<Tensor> in{c.x, c.layer.weight_EDF.dense_EDF(), *c.layer.bias_EF};
    if (gated) in.push_back(*c.gates);
    expect_tape_gradients(
        [&](const auto& at) {
          return scattered_experts(at[0], ExpertLayerVar{at[1], at[2]}, c.order, mode,
                                   at.size() > 3 ? at[3] : Var());
        },
        in);
  }
}

TEST(GradMoe, MOE_08_MOE_09_TheWholeLayerKeptOrComputedAgain) {
  const ExpertOrder order = expert_order(random_experts(4, 2, 3, 4), 3);
  for (const Keep keep : {Keep::kPre, Keep::kNothing}) {
    expect_tape_gradients(
        [&](const auto& in) {
          const ExpertMlpVar mlp{{in[1], Var()}, {in[2], in[3]}, {}};
          return expert_mlp(in[0], mlp, order, in[4], keep);
        },
        {random_tensor({4, 3}, 5), random_tensor({3, 3, 4}, 6), random_tensor({3, 2, 3}, 7),
         random_tensor({3, 3}, 8), random_tensor({4, 2}, 9)});
  }
  expect_tape_gradients([](const auto& in) { return activate(in[0], ExpertActivation{}); },
                        {random_tensor({4, 6}, 5)});
}

TEST(GradMoe, MOE_09_NothingIsKeptButTheInputs) {
  const ExpertOrder order = expert_order(random_experts(512, 2, 4, 1), 4);
  const auto leaf = [](Shape shape, std::uint64_t seed) {
    return Var(random_tensor(std::move(shape), seed, DType::kF32), Needs::kGradient);
  };
  const Var x = leaf({512, 32}, 2), up = leaf({4, 32, 128}, 3), down = leaf({4, 64, 32}, 4),
            gates = leaf({512, 2}, 5);
  const ExpertMlpVar mlp{{up, Var()}, {down, Var()}, {}};
  const auto kept_bytes = [&](Keep keep) {
    const std::int64_t before = allocated_bytes();
    const Var out = expert_mlp(x, mlp, order, gates, keep);
    return allocated_bytes() - before - out.value().bytes();
  };
  EXPECT_EQ(kept_bytes(Keep::kNothing), 0);
  EXPECT_EQ(kept_bytes(Keep::kPre), 1024 * 128 * 4);
}

TEST(GradMoe, MOE_08_TwoBackwardsGiveExactlyTwice) {
  const ExpertOrder order = expert_order(random_experts(60, 2, 4, 1), 4);
  const Var x(random_tensor({60, 32}, 2, DType::kF32), Needs::kGradient),
      w(random_tensor({4, 32, 20}, 3, DType::kF32), Needs::kGradient),
      gates(random_tensor({60, 2}, 4, DType::kF32), Needs::kGradient);
  const Var out =
      scattered_experts(x, ExpertLayerVar{w, Var()}, order, {kScattered, kScattered, 2}, gates);
  const Tensor dout = random_tensor(out.shape(), 5, DType::kF32);
  backward(out, dout, Graph::kRetain);
  std::vector<std::vector<double>> once;
  for (const Var& v : {x, w, gates}) once.push_back(values(v.gradient()));
  backward(out, dout);
  std::size_t i = 0;
  for (const Var& v : {x, w, gates}) {
    for (double& value : once[i]) value *= 2;
    EXPECT_EQ(values(v.gradient()), once[i++]);
  }
}

TEST(GradMoe, MOE_19_QuantizedExpertsPassGradientsToInputsAndGates) {
  const test::PackedExperts packed = test::random_packed(WeightType::kQ4_1, 3, 32, 64, 1),
                            back = test::random_packed(WeightType::kQ8_0, 3, 32, 32, 2);
  const ExpertOrder order = expert_order(random_experts(9, 2, 3, 4), 3);
  const Tensor x = random_tensor({9, 32}, 5, DType::kF32),
               gates = random_tensor({9, 2}, 6, DType::kF32),
               dout = random_tensor({9, 32}, 7, DType::kF32);
  const auto run = [&](const ExpertMlp& mlp) {
    const Var a(x, Needs::kGradient), b(gates, Needs::kGradient);
    backward(expert_mlp(a, mlp, order, b), dout);
    return std::pair(values(a.gradient()), values(b.gradient()));
  };
  EXPECT_EQ(run({{packed.weights, {}}, {back.weights, {}}, {}}),
            run({{packed.dense_EDF, {}}, {back.dense_EDF, {}}, {}}));
  const Var a(x, Needs::kGradient);
  const Var out =
      scattered_experts(a, ExpertLayer{packed.weights, {}}, order, {kScattered, kGrouped, 2});
  const Tensor d = random_tensor(out.shape(), 8, DType::kF32);
  backward(out, d);
  EXPECT_EQ(values(a.gradient()),
            values(scattered_experts_backward(d, x, {packed.dense_EDF, {}}, order,
                                              {kScattered, kGrouped, 2})
                       .dx));
}

TEST(GradMoe, MOE_18_GroupedProducts) {
  const Tensor ends = index_of({2, 2, 5}, {3});
  expect_tape_gradients([&](const auto& in) { return grouped_matmul(in[0], in[1], ends); },
                        {random_tensor({6, 4}, 1), random_tensor({3, 4, 2}, 2)});
}

TEST(GradMoe, OTH_01_PackedSequences) {
  const Tensor start = index_of({0, 2, 5}, {3});
  for (const PadSide side : {PadSide::kLeft, PadSide::kRight}) {
    expect_tape_gradients([&](const auto& in) { return pack_sequence(in[0], start, side); },
                          {random_tensor({2, 3, 2}, 1)});
    expect_tape_gradients([&](const auto& in) { return unpack_sequence(in[0], start, 4, side); },
                          {random_tensor({5, 2}, 2)});
  }
}

}  // namespace
}  // namespace quire::grad

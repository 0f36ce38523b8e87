#include "quire/nn/moe.h"

#include <gtest/gtest.h>

#include "quire/base/error.h"
#include "quire/base/thread_pool.h"
#include "quire/grad/math.h"
#include "quire/grad/tape.h"
#include "quire/ops/math/arithmetic.h"
#include "quire/ops/matmul/dense.h"
#include "tests/ops/moe/moe_case.h"

namespace quire::nn {
namespace {

using grad::Needs;
using grad::Var;
using test::expect_close;
using test::index_of;
using test::random_tensor;
using test::values;

MoE<Tensor> random_layer(const MoESizes& sizes, DType dtype) {
  Rng rng(5);
  MoE<Tensor> out = moe_init(sizes, 0.5, rng);
  for (Tensor* x : {&out.router_DE, &out.up_EDF, &out.down_EFD, &out.shared_up, &out.shared_down})
    if (x->elements() > 0) *x = x->to(dtype);
  return out;
}

Tensor row(const Tensor& x, std::int64_t e) {
  return x.slice(0, e, e + 1).contiguous_copy().view({x.size(1), x.size(2)});
}

// Every token through its experts, one at a time.
std::vector<double> reference(const Tensor& x, const MoE<Tensor>& w, const MoESpec& spec,
                              const std::vector<std::int64_t>& here) {
  std::vector<double> all;
  for (std::int64_t n = 0; n < x.size(0); ++n) {
    const Tensor token = x.slice(0, n, n + 1);
    const Routing routing = route(matmul(token, w.router_DE), spec.routing, spec.bias_E);
    Tensor sum = Tensor::zeros({1, x.size(1)}, x.dtype());
    for (std::int64_t c = 0; c < spec.routing.C; ++c) {
      const std::int64_t global = test::integers(routing.experts_NC)[static_cast<std::size_t>(c)];
      const std::int64_t e = here[static_cast<std::size_t>(global)];
      if (e < 0) continue;
      const Tensor out =
          matmul(activate(matmul(token, row(w.up_EDF, e)), spec.activation), row(w.down_EFD, e));
      sum = add(sum, mul(out, values(routing.gates_NC)[static_cast<std::size_t>(c)]));
    }
    if (w.shared_up.rank() == 2)
      sum = add(sum, matmul(activate(matmul(token, w.shared_up), spec.activation), w.shared_down));
    const std::vector<double> one = values(sum);
    all.insert(all.end(), one.begin(), one.end());
  }
  return all;
}

TEST(MoETest, MOE_17_EqualsTheLoopWithASharedExpertAndWithAMap) {
  const Tensor x = random_tensor({9, 6}, 1);
  MoESpec spec{.routing = {.C = 2}};
  const MoE<Tensor> plain = random_layer({4, 6, 5}, DType::kF64);
  expect_close(values(moe(x, plain, spec).out_ND), reference(x, plain, spec, {0, 1, 2, 3}), "plain",
               1e-13);
  const MoE<Tensor> shared = random_layer({4, 6, 5, 7}, DType::kF64);
  expect_close(values(moe(x, shared, spec).out_ND), reference(x, shared, spec, {0, 1, 2, 3}),
               "shared", 1e-13);
  // Two of the four experts live here, in the other order.
  MoE<Tensor> half = plain;
  half.up_EDF = plain.up_EDF.slice(0, 0, 2);
  half.down_EFD = plain.down_EFD.slice(0, 0, 2);
  spec.map_E = index_of({-1, 1, -1, 0}, {4});
  expect_close(values(moe(x, half, spec).out_ND), reference(x, half, spec, {-1, 1, -1, 0}), "map",
               1e-13);
}

TEST(MoETest, MOE_17_RanksAddUpToTheWhole) {
  const Tensor x = random_tensor({30, 6}, 1);
  const MoE<Tensor> whole = random_layer({4, 6, 5}, DType::kF64);
  MoESpec spec{.routing = {.C = 3}};
  const std::vector<double> expected = values(moe(x, whole, spec).out_ND);
  Tensor sum = Tensor::zeros({30, 6}, DType::kF64);
  for (const std::int64_t rank : {0, 1}) {
    MoE<Tensor> part = whole;
    part.up_EDF = whole.up_EDF.slice(0, 2 * rank, 2 * rank + 2);
    part.down_EFD = whole.down_EFD.slice(0, 2 * rank, 2 * rank + 2);
    spec.map_E = rank == 0 ? index_of({0, 1, -1, -1}, {4}) : index_of({-1, -1, 0, 1}, {4});
    sum = add(sum, moe(x, part, spec).out_ND);
  }
  expect_close(values(sum), expected, "ranks", 1e-14);
}

TEST(MoETest, MOE_05_B11_TensorsAndVarsGiveTheSameBitsAndEveryWeightItsSlope) {
  const Tensor x = random_tensor({5, 4}, 1), dout = random_tensor({5, 4}, 2);
  const MoE<Tensor> layer = random_layer({3, 4, 3, 2}, DType::kF64);
  MoESpec spec{.routing = {.C = 2, .score = GateScore::kSigmoid}};
  for (const Keep keep : {Keep::kPre, Keep::kNothing}) {
    spec.keep = keep;
    const MoE<Var> vars = trained(layer);
    const Var in(x, Needs::kGradient);
    const auto out = moe(in, vars, spec);
    EXPECT_EQ(values(out.out_ND.value()), values(moe(x, layer, spec).out_ND));
    grad::backward(out.out_ND, dout);
    test::expect_gradients(
        [&](const auto& at) {
          const MoE<Tensor> moved{at[1], at[2], at[3], Tensor(), Tensor(), at[4], at[5]};
          return moe(at[0], moved, spec).out_ND;
        },
        {x, layer.router_DE, layer.up_EDF, layer.down_EFD, layer.shared_up, layer.shared_down},
        dout,
        {in.gradient(), vars.router_DE.gradient(), vars.up_EDF.gradient(), vars.down_EFD.gradient(),
         vars.shared_up.gradient(), vars.shared_down.gradient()});
  }
}

TEST(MoETest, MOE_05_B12_AnExpertIsReadForItsOwnTokensAlone) {
  // A layer that ran every expert over every token, and weighed by 0, would spread a NaN.
  const double nan = std::nan("");
  const Tensor x = random_tensor({40, 6}, 1), dout = random_tensor({40, 6}, 2);
  const MoESpec spec{.routing = {.C = 2}};
  const MoE<Tensor> clean = random_layer({8, 6, 5}, DType::kF64);
  const auto expected = moe(x, clean, spec);
  const std::vector<std::int64_t> chosen = test::integers(expected.experts_NC);
  for (const std::int64_t broken : {0, 3, 7}) {
    MoE<Tensor> layer = clean;
    layer.up_EDF = clean.up_EDF.to(DType::kF64);
    const std::int64_t one = layer.up_EDF.elements() / 8;
    for (std::int64_t i = 0; i < one; ++i)
      layer.up_EDF.mutable_data<double>()[broken * one + i] = nan;
    const MoE<Var> vars = trained(layer);
    const Var in(x, Needs::kGradient);
    const auto out = moe(in, vars, spec);
    grad::backward(out.out_ND, dout);
    const Tensor found = out.out_ND.value(), dx = in.gradient();
    bool any = false, all = true;
    for (std::int64_t n = 0; n < 40; ++n) {
      const bool visits = chosen[static_cast<std::size_t>(2 * n)] == broken ||
                          chosen[static_cast<std::size_t>(2 * n + 1)] == broken;
      any = any || visits;
      all = all && visits;
      for (std::int64_t d = 0; d < 6; ++d) {
        const double y = found.data<double>()[n * 6 + d];
        if (visits) {
          EXPECT_TRUE(std::isnan(y)) << n;
        } else {
          EXPECT_EQ(y, expected.out_ND.data<double>()[n * 6 + d]) << n;
          EXPECT_FALSE(std::isnan(dx.data<double>()[n * 6 + d])) << n;
        }
      }
    }
    EXPECT_TRUE(any && !all) << broken;
    // The gradients of the other experts' weights know nothing of it.
    const Tensor ddown = vars.down_EFD.gradient();
    for (std::int64_t e = 0; e < 8; ++e) {
      if (e == broken) continue;
      for (const double g : values(ddown.slice(0, e, e + 1))) EXPECT_FALSE(std::isnan(g)) << e;
    }
  }
}

TEST(MoETest, B11_TheTaskAloneReachesTheRouter) {
  // Renormalised gates of a frozen layer: the task's loss still moves the router's weights.
  const Tensor x = random_tensor({9, 6}, 1), dout = random_tensor({9, 6}, 2);
  MoESpec spec{.routing = {.C = 2, .renormalise = Renormalise::kYes}};
  MoE<Tensor> layer = random_layer({4, 6, 5}, DType::kF64);
  MoE<Var> vars = trained(layer);
  vars.up_EDF = Var(layer.up_EDF);
  vars.down_EFD = Var(layer.down_EFD);
  const auto out = moe(Var(x), vars, spec);
  ASSERT_TRUE(out.gates_NC.needs_gradient());
  grad::backward(out.out_ND, dout);
  const std::vector<double> found = values(vars.router_DE.gradient());
  const test::TensorFunction task = [&](const std::vector<Tensor>& at) {
    MoE<Tensor> moved = layer;
    moved.router_DE = at[0];
    return moe(x, moved, spec).out_ND;
  };
  expect_close(found, test::differences(task, {layer.router_DE}, 0, values(dout)), "router");
  double size = 0;
  for (const double g : found) size = std::max(size, std::abs(g));
  EXPECT_GT(size, 1e-3);
}

TEST(MoETest, MOE_11_B11_BalanceAndZLossTrainTheRouter) {
  // All tokens begin with one pair of experts; descending the two losses alone spreads them.
  const Tensor x = add(random_tensor({256, 8}, 1, DType::kF32), 1.0);
  MoE<Tensor> layer = random_layer({4, 8, 4}, DType::kF32);
  auto* router = layer.router_DE.mutable_data<float>();
  for (std::int64_t i = 0; i < 32; ++i) router[i] = i % 4 == 0 ? 0.5f : 0.01f * router[i];
  const MoESpec spec{.routing = {.C = 1}};
  double first = 0, last = 0;
  for (int step = 0; step < 200; ++step) {
    const MoE<Var> vars = trained(layer);
    const auto out = moe(Var(x), vars, spec);
    const Var balance = grad::balance_loss(out.logits_NE, out.experts_NC);
    last = values(balance.value())[0];
    if (step == 0) first = last;
    grad::backward(grad::add(balance, grad::mul(grad::z_loss(out.logits_NE), 1e-3)));
    layer.router_DE = add(layer.router_DE, mul(vars.router_DE.gradient(), -0.1));
  }
  EXPECT_GT(first, 3.0);
  EXPECT_LT(last, 1.2);
}

TEST(MoETest, MOE_14_TheSameBitsWithAnyNumberOfThreads) {
  const Tensor x = random_tensor({200, 64}, 1, DType::kF32),
               dout = random_tensor({200, 64}, 2, DType::kF32);
  const MoE<Tensor> layer = random_layer({8, 64, 48}, DType::kF32);
  const MoESpec spec{.routing = {.C = 2}};
  std::vector<std::vector<double>> one;
  for (const int threads : {1, 2, 7}) {
    set_threads(threads);
    const MoE<Var> vars = trained(layer);
    const auto out = moe(Var(x), vars, spec);
    grad::backward(out.out_ND, dout);
    const std::vector<std::vector<double>> all{
        values(out.out_ND.value()), values(vars.router_DE.gradient()),
        values(vars.up_EDF.gradient()), values(vars.down_EFD.gradient())};
    if (threads == 1) one = all;
    EXPECT_EQ(all, one) << threads;
  }
  set_threads(2);
}

TEST(MoETest, Errors) {
  const MoE<Tensor> layer = random_layer({3, 4, 3}, DType::kF64);
  EXPECT_THROW((void)moe(random_tensor({2, 5}, 1), layer, {}), ArgumentError);
  EXPECT_THROW((void)moe(random_tensor({2, 4}, 1), layer, {.routing = {.C = 4}}), ArgumentError);
  EXPECT_THROW((void)moe(random_tensor({2, 4}, 1, DType::kF32), layer, {}), ArgumentError);
}

}  // namespace
}  // namespace quire::nn

#include "quire/nn/moe.h"

#include "quire/grad/math.h"
#include "quire/grad/matmul.h"
#include "quire/ops/math/arithmetic.h"
#include "quire/ops/matmul/dense.h"

namespace quire::nn {
namespace {

const Tensor& value_of(const Tensor& x) { return x; }
const Tensor& value_of(const grad::Var& x) { return x.value(); }

template <class V>
bool given(const V& x) {
  return value_of(x).rank() != 1 || value_of(x).elements() != 0;
}

std::optional<Tensor> option(const Tensor& x) {
  return given(x) ? std::optional<Tensor>(x) : std::nullopt;
}

Tensor experts_of(const Tensor& x, const MoE<Tensor>& w, const MoESpec& spec,
                  const ExpertOrder& order, const Tensor& gates) {
  const ExpertMlp experts{
      {w.up_EDF, option(w.up_bias)}, {w.down_EFD, option(w.down_bias)}, spec.activation};
  return expert_mlp(x, experts, order, gates).out_ND;
}

grad::Var experts_of(const grad::Var& x, const MoE<grad::Var>& w, const MoESpec& spec,
                     const ExpertOrder& order, const grad::Var& gates) {
  const grad::ExpertMlpVar experts{
      {w.up_EDF, w.up_bias}, {w.down_EFD, w.down_bias}, spec.activation};
  return expert_mlp(x, experts, order, gates, spec.keep);
}

Tensor normal(Shape shape, double deviation, Rng& rng) {
  Tensor out = Tensor::empty(std::move(shape), DType::kF32);
  float* to = out.mutable_data<float>();
  for (std::int64_t i = 0; i < out.elements(); ++i)
    to[i] = static_cast<float>(deviation) * rng.normal();
  return out;
}

}  // namespace

template <class V>
MoEResult<V> moe(const V& x_ND, const MoE<V>& weights, const MoESpec& spec) {
  V logits = matmul(x_ND, weights.router_DE);
  auto routing = route(logits, spec.routing, spec.bias_E);
  const Tensor here =
      spec.map_E ? map_experts(routing.experts_NC, *spec.map_E) : routing.experts_NC;
  const ExpertOrder order = expert_order(here, value_of(weights.up_EDF).size(0));
  V out = experts_of(x_ND, weights, spec, order, routing.gates_NC);
  if (given(weights.shared_up)) {
    const V hidden = activate(matmul(x_ND, weights.shared_up), spec.activation);
    out = add(out, matmul(hidden, weights.shared_down));
  }
  return {std::move(out), std::move(logits), std::move(routing.gates_NC),
          std::move(routing.experts_NC)};
}

template MoEResult<Tensor> moe(const Tensor&, const MoE<Tensor>&, const MoESpec&);
template MoEResult<grad::Var> moe(const grad::Var&, const MoE<grad::Var>&, const MoESpec&);

MoE<Tensor> moe_init(const MoESizes& sizes, double deviation, Rng& rng) {
  const std::int64_t width = takes_pairs(sizes.activation) ? 2 : 1;
  MoE<Tensor> out;
  out.router_DE = normal({sizes.D, sizes.E}, deviation, rng);
  out.up_EDF = normal({sizes.E, sizes.D, width * sizes.F}, deviation, rng);
  out.down_EFD = normal({sizes.E, sizes.F, sizes.D}, deviation, rng);
  if (sizes.shared_F == 0) return out;
  out.shared_up = normal({sizes.D, width * sizes.shared_F}, deviation, rng);
  out.shared_down = normal({sizes.shared_F, sizes.D}, deviation, rng);
  return out;
}

MoE<grad::Var> trained(const MoE<Tensor>& weights) {
  const auto leaf = [](const Tensor& x) {
    return given(x) ? grad::Var(x, grad::Needs::kGradient) : grad::Var();
  };
  return {leaf(weights.router_DE),  leaf(weights.up_EDF),    leaf(weights.down_EFD),
          leaf(weights.up_bias),    leaf(weights.down_bias), leaf(weights.shared_up),
          leaf(weights.shared_down)};
}

}  // namespace quire::nn

#pragma once

#include <cstdint>
#include <optional>

#include "quire/grad/moe.h"
#include "quire/tensor/rng.h"

namespace quire::nn {

/// The weights of a mixture of experts, as Tensors to run it and as Vars to train it. What a layer
/// does not have stays empty.
template <class V>
struct MoE {
  V router_DE;               // logits = x · router
  V up_EDF, down_EFD;        // the experts' layers; up has 2F columns for activations of pairs
  V up_bias, down_bias;      // [E, F or 2F] and [E, D]
  V shared_up, shared_down;  // [D, F' or 2F'] and [F', D]: an expert that every token visits
};

/// How tokens choose, and what happens to what they chose.
struct MoESpec {
  RoutingSpec routing = {};
  ExpertActivation activation = {};
  std::optional<Tensor> bias_E = std::nullopt;  // of the choice alone (GateScore::kSigmoid)
  // i64, for each expert of the router its number among the weights here, −1 for those elsewhere.
  std::optional<Tensor> map_E = std::nullopt;
  Keep keep = Keep::kPre;  // for backward; kNothing computes again
};

/// The layer's output, and what the router said of each token: for losses and for looking at.
template <class V>
struct MoEResult {
  V out_ND, logits_NE, gates_NC;
  Tensor experts_NC;
};

/// A feed-forward layer of experts with its router:
///
///   out = Σ_c gates[c] · expert_c(x) + shared(x)
///
/// x_ND     f64, f32, bf16 or f16
/// weights  of that dtype; with a map, E counts the router's experts, and the weights are those of
///          the experts that live here, by their numbers in the map
/// returns  out_ND of that dtype
///
/// The gradient reaches x, every weight and, through the gates, the router. Throws ArgumentError as
/// its parts do. The same bits with any number of threads.
template <class V>
MoEResult<V> moe(const V& x_ND, const MoE<V>& weights, const MoESpec& spec);

/// Normal numbers times `deviation` for every weight, f32, biases absent; F is the hidden width.
struct MoESizes {
  std::int64_t E, D, F, shared_F = 0;
  ActivationKind activation = ActivationKind::kSwiglu;
};
MoE<Tensor> moe_init(const MoESizes& sizes, double deviation, Rng& rng);

/// The same weights as leaves of a tape.
MoE<grad::Var> trained(const MoE<Tensor>& weights);

}  // namespace quire::nn

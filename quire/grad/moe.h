#pragma once

#include <optional>

#include "quire/grad/var.h"
#include "quire/ops/moe/expert_mlp.h"
#include "quire/ops/moe/routing.h"
#include "quire/ops/sequence/pack_sequence.h"

/// The functions of ops/moe for Vars: the same names, arguments, results and errors. None can be
/// differentiated twice but pack_sequence and unpack_sequence. Nothing that is saved is written to:
/// a second backward pass gives the same bits.
namespace quire::grad {

/// As in routing.h: the gates have gradients, the choice has none.
struct RoutingVar {
  Tensor experts_NC;
  Var gates_NC;
};
RoutingVar route(const Var& logits_NE, const RoutingSpec& spec,
                 const std::optional<Tensor>& bias_E = std::nullopt);

/// As in router_loss.h.
Var balance_loss(const Var& logits_NE, const Tensor& experts_NC);
Var z_loss(const Var& logits_NE);

/// As in expert_activation.h.
Var activate(const Var& pre, const ExpertActivation& activation);

/// As in scattered_experts.h; an empty Var stands for no bias and for no gates.
struct ExpertLayerVar {
  Var weight_EDF, bias_EF;
};
Var scattered_experts(const Var& x, const ExpertLayerVar& experts, const ExpertOrder& order,
                      const ScatterSpec& spec, const Var& gates_NC = Var());
/// With weights that are constants, such as quantized ones: gradients to inputs and gates.
Var scattered_experts(const Var& x, const ExpertLayer& experts, const ExpertOrder& order,
                      const ScatterSpec& spec, const Var& gates_NC = Var());

/// As in expert_mlp.h. Keep::kNothing saves the inputs only and computes the rest again in the
/// backward pass.
struct ExpertMlpVar {
  ExpertLayerVar up, down;
  ExpertActivation activation;
};
Var expert_mlp(const Var& x_ND, const ExpertMlpVar& experts, const ExpertOrder& order,
               const Var& gates_NC, Keep keep = Keep::kPre);
/// With weights that are constants.
Var expert_mlp(const Var& x_ND, const ExpertMlp& experts, const ExpertOrder& order,
               const Var& gates_NC, Keep keep = Keep::kPre);

/// As in grouped_matmul.h.
Var grouped_matmul(const Var& a, const Var& b, const Tensor& ends_E);

/// As in pack_sequence.h.
Var pack_sequence(const Var& x, const Tensor& start_J, PadSide side);
Var unpack_sequence(const Var& x, const Tensor& start_J, std::int64_t length, PadSide side);

}  // namespace quire::grad

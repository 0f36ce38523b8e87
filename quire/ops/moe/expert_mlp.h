#pragma once

#include <optional>

#include "quire/ops/moe/expert_activation.h"
#include "quire/ops/moe/scattered_experts.h"

namespace quire {

/// Experts of two layers with an activation between them.
struct ExpertMlp {
  ExpertLayer up, down;  // [E, D, F or 2F] and [E, F, D]
  ExpertActivation activation;
};

/// What backward would like to have again.
enum class Keep : std::uint8_t { kNothing, kPre };

/// What expert_mlp returns. pre is what the activation was given, grouped; empty (rank 1) unless
/// kept.
struct ExpertMlpResult {
  Tensor out_ND, pre;
};

/// A feed-forward layer of experts: every token through those that it chose.
///
///   pre = scattered_experts(x, up), scattered to grouped
///   out = scattered_experts(activate(pre), down, gates), grouped to scattered
///
/// x_ND      f64, f32, bf16 or f16
/// gates_NC  the same dtype, N · C slots as in `order`
/// returns   [N, D] of that dtype
///
/// Throws  ArgumentError as its parts do.
/// Order   as scattered_experts: the same bits with any number of threads, and those of the parts.
///         The activation is applied to each tile of the first product while it is in the cache.
/// Memory  M · F and N · C · D numbers.
ExpertMlpResult expert_mlp(const Tensor& x_ND, const ExpertMlp& experts, const ExpertOrder& order,
                           const Tensor& gates_NC, Keep keep = Keep::kNothing);

/// The gradients of everything: empty tensors (rank 1) for packed weights and absent biases. What
/// was not kept (`pre` empty) is computed again: the same bits. Throws as its parts do.
struct ExpertMlpGradients {
  Tensor dx_ND, dgates_NC;
  Tensor dup, dup_bias, ddown, ddown_bias;
};
ExpertMlpGradients expert_mlp_backward(const Tensor& dout_ND, const Tensor& x_ND,
                                       const ExpertMlp& experts, const ExpertOrder& order,
                                       const Tensor& gates_NC, const Tensor& pre = Tensor());

}  // namespace quire

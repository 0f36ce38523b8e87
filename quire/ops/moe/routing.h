#pragma once

#include <optional>

#include "quire/ops/moe/routing_spec.h"
#include "quire/tensor/tensor.h"

namespace quire {

/// How many experts a token gets and what weighs them.
struct RoutingSpec {
  std::int64_t C = 2;  // experts a token, 1 to E
  GateScore score = GateScore::kTopKSoftmax;
  Renormalise renormalise = Renormalise::kNo;  // no effect on kTopKSoftmax
  double scale = 1;                            // of all gates, after that
  std::int64_t groups = 1, groups_kept = 1;    // experts e · groups / E of one number are a group
  GroupScore group_score = GroupScore::kBest;
};

/// The experts of each token, best first (i64), and their gates, in the dtype of the logits.
struct Routing {
  Tensor experts_NC, gates_NC;
};

/// Chooses the experts of each token (routing_spec.h has the scores). Of equal scores the lowest
/// expert comes first, and the lowest group is kept; NaN counts as larger than everything.
///
/// logits_NE  f64, f32, bf16 or f16; gates are computed in f32 (f64) and rounded once
/// bias_E     f32 or f64, kSigmoid only: added for the choice, never part of a gate
/// returns    as above
///
/// Throws  ArgumentError unless 1 <= C <= experts of the kept groups, groups divide E, and on
///         dtypes and sizes; for kBestTwo with one expert a group.
/// Order   the same with any number of threads.
/// Source  torch.topk; Fedus et al. 2021; DeepSeek-AI 2024 (V2, V3).
Routing route(const Tensor& logits_NE, const RoutingSpec& spec,
              const std::optional<Tensor>& bias_E = std::nullopt);

/// dlogits for the gates of a choice that stays as it is; zeros where no gate depends on a logit.
/// Throws ArgumentError on dtypes, sizes and expert numbers.
Tensor route_backward(const Tensor& dgates_NC, const Tensor& logits_NE, const Tensor& experts_NC,
                      const RoutingSpec& spec);

}  // namespace quire

#pragma once

#include <optional>

#include "quire/ops/moe/scatter2scatter.h"

namespace quire {

/// The linear layers of a mixture of experts: each token's rows through the experts it chose, and,
/// with gates, added up again.
///
///   rows = scatter2scatter(x, experts, order, spec)
///   without gates  out = rows
///   with gates     out[n] = Σ_c gates[n, c] · rows[n · C + c]
///
/// x        f64, f32, bf16 or f16; [M, D] when spec.in is grouped (fan 1), else [slots / fan, D]
/// experts  dense weights and bias in the dtype of x, or packed weights
/// gates_NC the dtype of x, N · C = slots; only with spec.out scattered
/// returns  [M, F] when spec.out is grouped, [slots, F] when scattered, [N, F] with gates
///
/// Throws  ArgumentError on dtypes and sizes, for gates with grouped rows, for a grouped x with fan
///         > 1.
/// Order   as scatter2scatter and combine: no atomics, the same bits with any number of threads.
/// Memory  with gates, slots · F numbers of f32 (f64).
/// Source  xma (layers/moe, scattered_experts); docs/scattered_experts.md maps its arguments.
Tensor scattered_experts(const Tensor& x, const ExpertLayer& experts, const ExpertOrder& order,
                         const ScatterSpec& spec,
                         const std::optional<Tensor>& gates_NC = std::nullopt);

/// The gradients of everything that has one. dgates is that of the combine weights, from
/// <x, dout · weightᵀ>: nothing of the forward is kept but its inputs, and none is written to.
///
/// dweight_EDF  empty (rank 1) for packed weights
/// dbias_EF     empty without a bias; dgates_NC without gates
///
/// Throws as `scattered_experts`. Order as group_bwd_w and combine.
struct ScatteredExpertsGradients {
  Tensor dx, dweight_EDF, dbias_EF, dgates_NC;
};
ScatteredExpertsGradients scattered_experts_backward(
    const Tensor& dout, const Tensor& x, const ExpertLayer& experts, const ExpertOrder& order,
    const ScatterSpec& spec, const std::optional<Tensor>& gates_NC = std::nullopt);

}  // namespace quire

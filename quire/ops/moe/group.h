#pragma once

#include "quire/ops/moe/expert_order.h"
#include "quire/tensor/tensor.h"

namespace quire {

/// Brings rows into the order of the experts.
///
///   out[m] = a[slot[m] / fan] (· factor[slot[m]])
///
/// a       f64, f32, bf16 or f16 [slots / fan, D], any strides
/// order   slot[m], m < M
/// fan     slots that share a row of a, at least 1
/// factor  the dtype of a, one number a slot in any shape
/// returns [M, D] of that dtype; bf16 and f16 are multiplied in f32 and rounded once
///
/// Throws  ArgumentError on dtypes and sizes.
/// Order   element by element.
/// Source  xma (layers/moe, group); Tan et al. 2024, "Scattered mixture-of-experts implementation".
Tensor group(const Tensor& a, const ExpertOrder& order, std::int64_t fan);
Tensor group(const Tensor& a, const ExpertOrder& order, std::int64_t fan, const Tensor& factor);

/// Adds up what the experts said of each token, in the order of its choices:
///
///   out[n] = Σ_c gates[n, c] · rows[n · C + c]
///
/// rows     f64, f32, bf16 or f16 [N · C, D]
/// gates_NC the same dtype; without gates all are 1
/// returns  [N, D]; sums are f32 (f64 for f64) and rounded once
///
/// Throws  ArgumentError on dtypes and sizes.
/// Order   one chain over c for each element, whatever the order of the experts and the number of
///         threads.
Tensor combine(const Tensor& rows, const Tensor& gates_NC);
Tensor combine(const Tensor& rows, std::int64_t C);

}  // namespace quire

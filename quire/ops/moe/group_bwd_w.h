#pragma once

#include "quire/ops/moe/expert_order.h"
#include "quire/tensor/tensor.h"

namespace quire {

/// The gradient of each expert's weights from grouped rows.
///
///   dweight[e] = Σ_m x[m]ᵀ · dy[m],   start[e] <= m < start[e + 1]
///
/// x_MD, dy_MF  f64, f32, bf16 or f16, the same; any strides; grouped by `order`
/// returns      [E, D, F] of that dtype, zeros for an expert without rows; sums are f32 (f64 for
///              f64) and rounded once
///
/// Throws  ArgumentError on dtypes and sizes.
/// Order   one chain over an expert's rows for each element, whatever the number of threads.
/// Source  xma (layers/moe, group_bwd_W).
Tensor group_bwd_w(const Tensor& x_MD, const Tensor& dy_MF, const ExpertOrder& order);

/// dbias[e] = Σ_m dy[m] over the expert's rows, [E, F]. Throws and order as above, summed in f64.
Tensor group_bwd_bias(const Tensor& dy_MF, const ExpertOrder& order);

}  // namespace quire

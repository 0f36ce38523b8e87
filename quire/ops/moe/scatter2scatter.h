#pragma once

#include "quire/ops/moe/expert_order.h"
#include "quire/ops/moe/expert_weights.h"
#include "quire/tensor/tensor.h"

namespace quire {

/// Where the rows of a product with experts come from and go to.
struct ScatterSpec {
  RowOrder in = RowOrder::kScattered, out = RowOrder::kGrouped;
  std::int64_t fan = 1;  // slots that share a scattered row of x; 1 where x is grouped
};

/// Multiplies every row with the matrix of its expert, without copying rows into place first.
///
///   out[out grouped ? m : slot[m]] = x[in grouped ? m : slot[m] / fan] · weight[e] + bias[e]
///
/// for each sorted slot m of each expert e.
///
/// x        f64, f32, bf16 or f16, any strides; [M, D], or [slots / fan, D] when scattered
/// experts  the weights in the dtype of x, or packed; the bias is added before rounding
/// returns  [M, F], or [slots, F] when scattered, of x's dtype; slots of no expert are zeros
///
/// Throws  ArgumentError on dtypes and sizes, and for a grouped x with fan > 1.
/// Order   each output is one chain of FMAs over D in f32 (f64: multiply, then add), whatever the
///         rows beside it and the number of threads. f32 is never rounded to anything shorter.
/// Memory  x in f32 for bf16 and f16; 80 KiB a thread.
/// Source  Tan et al. 2024, "Scattered mixture-of-experts implementation"; xma (layers/moe).
Tensor scatter2scatter(const Tensor& x, const ExpertLayer& experts, const ExpertOrder& order,
                       const ScatterSpec& spec);

}  // namespace quire

#pragma once

#include "quire/tensor/tensor.h"

namespace quire {

/// The loss of a classifier, averaged over the rows that count.
///
///   loss = Σ_n (lse[n] − logits[n, target[n]]) / rows        lse[n] = log Σ_v e^logits[n, v]
///
/// logits_NV     f64, f32, bf16 or f16; any strides
/// target_N      i64 or i32, each in [0, V), or `ignore`: that row does not count
/// returns loss  rank 0, the dtype of the logits; NaN when no row counts
///         lse_N f64, for the backward
///
/// Throws  ArgumentError on shapes and dtypes, and for a target out of range, with its position.
/// Order   sums over v and over n in f64, in order.
struct CrossEntropy {
  Tensor loss, lse_N;
};
CrossEntropy cross_entropy(const Tensor& logits_NV, const Tensor& target_N,
                           std::int64_t ignore = -100);

/// dlogits[n, v] = dloss · (e^(logits[n, v] − lse[n]) − [v = target[n]]) / rows; 0 in rows that do
/// not count. Throws as `cross_entropy`.
Tensor cross_entropy_backward(const Tensor& dloss, const Tensor& logits_NV, const Tensor& target_N,
                              const Tensor& lse_N, std::int64_t ignore = -100);

}  // namespace quire

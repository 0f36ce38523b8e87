#pragma once

#include "quire/tensor/tensor.h"

namespace quire {

/// Divides each row by its root mean square and multiplies by a weight.
///
///   out[n, d] = x[n, d] / sqrt(Σ_d x[n, d]² / D + epsilon) · weight[d]
///
/// x_ND      f32, any strides
/// weight_D  f32
/// epsilon   finite, at least 0; a row of zeros with epsilon 0 gives NaN
/// returns   f32 [N, D]
///
/// Throws  ArgumentError on shapes, dtypes, epsilon.
/// Order   the squares are added in 64 lanes, then in one tree: a row's bits depend on nothing but
///         the row.
/// Source  Zhang and Sennrich 2019.
Tensor rms_norm(const Tensor& x_ND, const Tensor& weight_D, double epsilon);

}  // namespace quire

#pragma once

#include "quire/tensor/tensor.h"

namespace quire {

/// Divides each row by its root mean square and multiplies by a weight.
///
///   out[n, d] = x[n, d] / sqrt(Σ_d x[n, d]² / D + epsilon) · weight[d]
///
/// x_ND      f32 or f64, any strides
/// weight_D  the dtype of x_ND
/// epsilon   finite, at least 0; a row of zeros with epsilon 0 gives NaN
/// returns   [N, D] of that dtype
///
/// Throws  ArgumentError on shapes, dtypes, epsilon.
/// Order   the squares are added in 64 lanes, then in one tree (f64: one after another): a row's
///         bits depend on nothing but the row.
/// Source  Zhang and Sennrich 2019.
Tensor rms_norm(const Tensor& x_ND, const Tensor& weight_D, double epsilon);

/// With s[n] = 1 / sqrt(Σ_d x[n, d]² / D + epsilon) and g[n, d] = dout[n, d] · weight[d]:
///
///   dx[n, d] = s[n] · g[n, d] − x[n, d] · s[n]³ · Σ_j g[n, j] x[n, j] / D
///   dweight[d] = Σ_n dout[n, d] · x[n, d] · s[n]
///
/// All of one dtype, f32 or f64. Sums are taken in f64, over rising d and n. Throws as `rms_norm`.
struct RmsNormGradients {
  Tensor dx_ND, dweight_D;
};
RmsNormGradients rms_norm_backward(const Tensor& dout_ND, const Tensor& x_ND,
                                   const Tensor& weight_D, double epsilon);

}  // namespace quire

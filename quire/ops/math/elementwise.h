#pragma once

#include "quire/tensor/tensor.h"

namespace quire {

/// Adds one tensor to another of the same shape, in place: a residual connection.
///
///   x[i] += y[i]
///
/// x  f32, contiguous, updated in place
/// y  f32, any strides
///
/// Aliasing  y may be x.
/// Throws    ArgumentError on dtypes, a dimension that differs (with both sizes), and gaps in x.
void add_(Tensor& x, const Tensor& y);

}  // namespace quire

#pragma once

#include "quire/tensor/tensor.h"

namespace quire {

/// Exponentials along a dimension, divided by their sum.
///
///   out[i] = e^(x[i] − m) / Σ_j e^(x[j] − m)        m = max_j x[j]
///
/// x        f64, f32, bf16 or f16; any strides. −inf gives 0; a row of −inf alone gives NaN, and so
///          does a row with +inf or NaN
/// dim      negative counts from the end
/// returns  the dtype of x, row-major
///
/// Throws  ArgumentError on dtype and dim.
/// Order   along the dimension, the sum in f64: a row's bits depend on nothing but the row.
Tensor softmax(const Tensor& x, int dim);

/// dx = out · (dout − Σ_j out[j] · dout[j]), where out = softmax(x, dim).
/// Throws ArgumentError on dtypes, shapes and dim. Order as above.
Tensor softmax_backward(const Tensor& dout, const Tensor& out, int dim);

}  // namespace quire

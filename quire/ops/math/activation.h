#pragma once

#include "quire/tensor/tensor.h"

namespace quire {

/// The gated activation of a feed-forward layer.
///
///   out[n, f] = silu(gate[n, f]) · up[n, f]        silu(g) = g / (1 + e^−g)
///
/// gate_NF  f32 or f64, any strides
/// up_NF    the same dtype, any strides
/// returns  [N, F] of that dtype
///
/// Throws  ArgumentError on shapes and dtypes.
/// Order   element by element. silu is within 4 ulp of its value; for a gate below −87.3 it is 0.
/// Source  Shazeer 2020, "GLU variants improve transformer".
Tensor swiglu(const Tensor& gate_NF, const Tensor& up_NF);

/// With σ = 1 / (1 + e^−gate):
///
///   dgate = dout · up · σ · (1 + gate · (1 − σ))        dup = dout · gate · σ
///
/// All of one dtype, f32 or f64. Throws as `swiglu`.
struct SwigluGradients {
  Tensor dgate_NF, dup_NF;
};
SwigluGradients swiglu_backward(const Tensor& dout_NF, const Tensor& gate_NF, const Tensor& up_NF);

}  // namespace quire

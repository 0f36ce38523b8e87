#pragma once

#include "quire/tensor/tensor.h"

namespace quire {

/// The gated activation of a feed-forward layer.
///
///   out[n, f] = silu(gate[n, f]) · up[n, f]        silu(g) = g / (1 + e^−g)
///
/// gate_NF  f32, any strides
/// up_NF    f32, any strides
/// returns  f32 [N, F]
///
/// Throws  ArgumentError on shapes and dtypes.
/// Order   element by element. silu is within 4 ulp of its value; for a gate below −87.3 it is 0.
/// Source  Shazeer 2020, "GLU variants improve transformer".
Tensor swiglu(const Tensor& gate_NF, const Tensor& up_NF);

}  // namespace quire

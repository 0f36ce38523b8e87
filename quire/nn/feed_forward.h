#pragma once

#include "quire/ops/matmul/matmul.h"

namespace quire::nn {

/// The weights of a gated feed-forward layer: gate and up are F × D, down is D × F.
struct FeedForward {
  Weight gate, up, down;
};

/// down · (silu(gate · x) · (up · x)) of each row.
///
/// x_ND     f32
/// returns  f32 [N, D]
///
/// Throws  ArgumentError as matmul and swiglu do.
/// Source  Shazeer 2020 (SwiGLU).
Tensor feed_forward(const Tensor& x_ND, const FeedForward& weights, MatmulMode mode);

}  // namespace quire::nn

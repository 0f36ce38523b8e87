#pragma once

#include "quire/ops/matmul/dense.h"
#include "quire/tensor/rng.h"
#include "quire/tensor/tensor.h"

namespace quire {

/// A layer: out = x · weightᵀ (+ bias).
///
/// x          f64, f32, bf16 or f16; rank at least 1, the last dimension is D
/// weight_MD  the same dtype; one row for each output, as PyTorch stores it
/// bias_M     the same dtype
/// returns    x's shape with M last
///
/// Throws  ArgumentError on dtypes and shapes.
/// Order   as matmul (dense.h), then the bias.
/// Source  torch.nn.functional.linear (2.x).
Tensor linear(const Tensor& x, const Tensor& weight_MD);
Tensor linear(const Tensor& x, const Tensor& weight_MD, const Tensor& bias_M);

/// dx = dout · weight, dweight = doutᵀ · x, dbias = Σ dout over the rows. One that is not wanted is
/// Tensor(); x is read for dweight alone, weight for dx alone. Throws as `linear`.
struct LinearGradients {
  Tensor dx, dweight_MD, dbias_M;
};
struct LinearWants {
  Want dx = Want::kYes, dweight_MD = Want::kYes, dbias_M = Want::kYes;
};
LinearGradients linear_backward(const Tensor& dout, const Tensor& x, const Tensor& weight_MD,
                                const LinearWants& wants = {});

/// The weights a layer starts training with: uniform in ±1/√D, drawn row by row, then the bias.
/// D and M are at least 1. Source: torch.nn.Linear.
struct LinearWeights {
  Tensor weight_MD, bias_M;  // f32
};
LinearWeights linear_init(std::int64_t M, std::int64_t D, Rng& rng);

}  // namespace quire

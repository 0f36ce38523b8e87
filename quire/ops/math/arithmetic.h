#pragma once

#include "quire/tensor/tensor.h"

namespace quire {

/// Elementwise arithmetic with broadcasting: shapes are aligned at the last dimension, and a size
/// of 1 repeats.
///
///   add a+b     sub a−b     mul a·b     div a/b     neg −a     exp e^a     clamp_min max(a, min)
///
/// a, b     f64, f32, bf16 or f16, the same; any strides; b may be a number
/// min      a NaN in a stays one
/// returns  the dtype of a, row-major; bf16 and f16 are computed in f32 and rounded once
///
/// Throws    ArgumentError on dtypes, and naming the dimension and both sizes on shapes.
/// Order     element by element.
/// Backward  of add, sub, mul and neg: sum_to (reduce.h) of dout, of dout times the other factor.
Tensor add(const Tensor& a, const Tensor& b);
Tensor sub(const Tensor& a, const Tensor& b);
Tensor mul(const Tensor& a, const Tensor& b);
Tensor div(const Tensor& a, const Tensor& b);
Tensor add(const Tensor& a, double b);
Tensor mul(const Tensor& a, double b);
Tensor neg(const Tensor& a);
Tensor exp(const Tensor& a);
Tensor clamp_min(const Tensor& a, double min);

/// Gradients of a and b, in their own shapes: dout/b and −dout·a/b². Throws as `div`.
struct DivGradients {
  Tensor da, db;
};
DivGradients div_backward(const Tensor& dout, const Tensor& a, const Tensor& b);

/// dout · out, where out = exp(a). Throws as `mul`.
Tensor exp_backward(const Tensor& dout, const Tensor& out);

/// dout where a ≥ min, else 0 (for a NaN too). Throws as `mul`.
Tensor clamp_min_backward(const Tensor& dout, const Tensor& a, double min);

/// A tensor of one value, rounded to the dtype (any floating one; ArgumentError for others).
Tensor full(Shape shape, double value, DType dtype);

}  // namespace quire

#pragma once

#include <vector>

#include "quire/tensor/tensor.h"

namespace quire {

/// What becomes of a dimension that is reduced: it goes, or stays with size 1.
enum class Axis : std::uint8_t { kDrop, kKeep };

/// Sums, means and Euclidean norms over dimensions.
///
///   sum Σ x      mean Σ x / n      norm √Σ x²
///
/// x        f64, f32, bf16 or f16; any strides
/// dims     each at most once, negative ones count from the end; without dims, all
/// returns  the dtype of x, row-major. Of zero numbers the sum and norm are 0, the mean NaN.
///
/// Throws    ArgumentError on dtypes, a dim out of range or named twice.
/// Order     the reduced numbers one after another in row-major order, in f64, then rounded: the
///           same bits with any number of threads.
/// Memory    a row-major copy of x when it is not, or when other dimensions stand between the dims.
/// Backward  of sum and mean: expand of dout (over n).
Tensor sum(const Tensor& x, const std::vector<int>& dims, Axis axis = Axis::kDrop);
Tensor sum(const Tensor& x);
Tensor mean(const Tensor& x, const std::vector<int>& dims, Axis axis = Axis::kDrop);
Tensor mean(const Tensor& x);
Tensor norm(const Tensor& x, int dim, Axis axis = Axis::kDrop);

/// dout · x / out; 0 where out is 0. dout and out have the shape that `norm` returned. Throws as
/// `norm`, and on shapes.
Tensor norm_backward(const Tensor& dout, const Tensor& x, const Tensor& out, int dim);

/// The largest number along a dimension and where it stands (i64). A NaN is larger than all; of
/// equals the first wins. Throws ArgumentError as `sum`, and for a dimension of size 0.
struct MaxResult {
  Tensor values, index;
};
MaxResult max(const Tensor& x, int dim, Axis axis = Axis::kDrop);

/// dout at the places that `index` names, 0 elsewhere. `shape` and `dim` are those of x.
/// Throws ArgumentError on shapes, dtypes, and an index out of range.
Tensor max_backward(const Tensor& dout, const Tensor& index, Shape shape, int dim);

/// The sum over what broadcasting repeated: the backward of `expand`. Where nothing did, x itself.
/// Throws ArgumentError when `shape` does not broadcast to x's.
Tensor sum_to(const Tensor& x, const Shape& shape);

}  // namespace quire

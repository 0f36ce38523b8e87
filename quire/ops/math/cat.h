#pragma once

#include <span>

#include "quire/tensor/tensor.h"

namespace quire {

/// Tensors one after another along a dimension.
///
/// parts    at least one; one dtype, one rank of at least 1, equal sizes but along dim; any strides
/// dim      negative counts from the end
/// returns  row-major; a copy even of a single part
///
/// Throws    ArgumentError on the number of parts, dtypes and ranks, and naming the part, the
///           dimension and both sizes.
/// Backward  slices of dout.
Tensor cat(std::span<const Tensor> parts, int dim);

}  // namespace quire

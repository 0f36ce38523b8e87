#pragma once

#include "quire/tensor/tensor.h"

namespace quire {

/// Whether a gradient comes back as coordinates and values. Only kNo is offered.
enum class SparseGrad : std::uint8_t { kNo, kYes };

/// Picks elements along one dimension.
///
///   out[i, j, k] = self[index[i, j, k], j, k]          for dim 0, and so on
///
/// self     any dtype and strides, rank r; rank 0 counts as one dimension of size 1
/// dim      in [-r, r)
/// index    i64 or i32, rank r, any strides; at most as large as self outside `dim`, any size at
///          `dim`; values in [0, self.size(dim)); when it has no elements its dtype and sizes are
///          free
/// returns  self's dtype, index's shape
///
/// Throws   ArgumentError on the above before anything is written; a bad value with its position;
///          for SparseGrad::kYes.
/// Order    elements are copied: the bits are self's.
/// Memory   an i32 index is widened once, without its expanded dimensions.
/// Source   torch.gather (2.x).
Tensor gather(const Tensor& self, int dim, const Tensor& index,
              SparseGrad sparse_grad = SparseGrad::kNo);

/// gather into `out` (index's shape, self's dtype, any strides but no element twice, no memory
/// shared with the inputs). Throws as gather does, and leaves out untouched then.
void gather_out(Tensor& out, const Tensor& self, int dim, const Tensor& index,
                SparseGrad sparse_grad = SparseGrad::kNo);

/// dself = zeros of `self_shape` with every element of dout added where it was picked, in the order
/// of `index`. dout has index's shape and a floating dtype.
Tensor gather_backward(const Tensor& dout, const Shape& self_shape, int dim, const Tensor& index);

}  // namespace quire

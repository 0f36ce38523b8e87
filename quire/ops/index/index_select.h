#pragma once

#include "quire/tensor/tensor.h"

namespace quire {

/// Picks whole slices along one dimension: out[.., n, ..] = self[.., index[n], ..].
///
/// self     any dtype and strides, rank r
/// dim      in [-r, r)
/// index_N  i64 or i32, rank 1 (rank 0 counts as one element); values in [0, self.size(dim))
/// returns  self's shape with N at `dim`; rank 0 stays rank 0, and N is 1 then
///
/// Throws   ArgumentError on the above before anything is written; a bad value with its position.
/// Order    elements are copied: the bits are self's.
/// Source   torch.index_select (2.x).
Tensor index_select(const Tensor& self, int dim, const Tensor& index_N);
/// Into `out`: the shape above, self's dtype, memory of its own. Throws as index_select does.
void index_select_out(Tensor& out, const Tensor& self, int dim, const Tensor& index_N);

/// dself = zeros of `self_shape` with every slice of dout added where it was picked, in index
/// order. dout has the shape above. Throws as index_select does.
Tensor index_select_backward(const Tensor& dout, const Shape& self_shape, int dim,
                             const Tensor& index_N);

}  // namespace quire

#pragma once

#include "quire/tensor/tensor.h"

namespace quire {

/// Adds slices of `source`: out = self; out[.., index[n], ..] += alpha · source[.., n, ..].
///
/// self     any dtype and strides, rank r
/// dim      in [-r, r)
/// index_N  i64 or i32, rank 1 (rank 0 counts as one element); values in [0, self.size(dim))
/// source   self's dtype; self's shape with N at `dim`
/// alpha    integer dtypes: a whole number; bool: 0 or 1
/// returns  self's dtype and shape
///
/// Aliasing  in place: self has no element twice (not expanded) and shares no memory with the rest.
/// Throws    ArgumentError on the above before anything is written; a bad value with its position.
/// Order     in index order, whatever the number of threads; alpha · source is rounded to the
///           accumulator's dtype (f32 for f16 and bf16) before it is added.
/// Source    torch.index_add (2.x).
Tensor index_add(const Tensor& self, int dim, const Tensor& index_N, const Tensor& source,
                 double alpha = 1);
/// In place. Throws as index_add does.
void index_add_(Tensor& self, int dim, const Tensor& index_N, const Tensor& source,
                double alpha = 1);
/// Into `out`: self's shape and dtype, memory of its own. Throws as index_add does.
void index_add_out(Tensor& out, const Tensor& self, int dim, const Tensor& index_N,
                   const Tensor& source, double alpha = 1);

/// The gradients of index_add.
struct IndexAddGrads {
  Tensor dself, dsource;
};

/// dself = dout; dsource = alpha · dout, the slices that index names. dout is of a floating dtype.
/// Throws as index_add does.
IndexAddGrads index_add_backward(const Tensor& dout, int dim, const Tensor& index_N,
                                 double alpha = 1);

}  // namespace quire

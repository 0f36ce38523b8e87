#pragma once

#include "quire/ops/index/reduce.h"
#include "quire/ops/index/scatter_reduce.h"
#include "quire/tensor/tensor.h"

namespace quire {

/// Reduces slices: out = self; out[.., index[n], ..] = reduce(that, source[.., n, ..]).
///
/// self     any dtype but bool, any strides, rank r
/// dim      in [-r, r)
/// index_N  i64 or i32, rank 1 (rank 0 counts as one element); values in [0, self.size(dim))
/// source   self's dtype; self's shape with N at `dim`
/// reduce   kProd, kMean, kAmax or kAmin; for kSum there is index_add
/// include  kNo: slices that index names start from nothing; all others keep self
/// returns  self's dtype and shape
///
/// Aliasing, Throws, Order, Memory   as scatter_reduce (scatter_reduce.h).
/// Source   torch.index_reduce (2.x).
Tensor index_reduce(const Tensor& self, int dim, const Tensor& index_N, const Tensor& source,
                    Reduce reduce, IncludeSelf include = IncludeSelf::kYes);
/// In place. Throws as index_reduce does.
void index_reduce_(Tensor& self, int dim, const Tensor& index_N, const Tensor& source,
                   Reduce reduce, IncludeSelf include = IncludeSelf::kYes);
/// Into `out`: self's shape and dtype, memory of its own. Throws as index_reduce does.
void index_reduce_out(Tensor& out, const Tensor& self, int dim, const Tensor& index_N,
                      const Tensor& source, Reduce reduce, IncludeSelf include = IncludeSelf::kYes);

/// The backward of index_reduce, by the rules of scatter_reduce_backward; throws as it does.
ScatterReduceGrads index_reduce_backward(const Tensor& dout, const Tensor& self, int dim,
                                         const Tensor& index_N, const Tensor& source,
                                         const ScatterReduceOptions& options);

}  // namespace quire

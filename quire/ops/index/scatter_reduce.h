#pragma once

#include "quire/ops/index/reduce.h"
#include "quire/tensor/tensor.h"

namespace quire {

/// Reduces elements of `src` along one dimension into the places that `index` names.
///
///   out = self;   out[index[i, j, k], j, k] = reduce(that, src[i, j, k])     for dim 0, and so on
///
/// self     any dtype and strides, rank r; rank 0 counts as one dimension of size 1
/// dim      in [-r, r)
/// index    i64 or i32, rank r, any strides, at most as large as src, and as self outside `dim`;
///          values in [0, self.size(dim)); without elements: out is a copy of self
/// src      self's dtype and rank; what lies outside index's shape is ignored
/// reduce   kMean is not for bool and adds integers as i64; other integers wrap modulo 2^n; bool
///          sums are "or", products "and"
/// include  kNo: places that index names start from nothing; all others keep self
/// returns  self's dtype and shape
///
/// Aliasing  in place: self has no element twice (not expanded) and shares no memory with the rest.
/// Throws    ArgumentError on the above before anything is written; a bad value with its position.
/// Order     what meets at a place is combined in index's row-major order, after self, whatever the
///           number of threads; f16 and bf16 in f32, rounded once.
/// Memory    at most the index, a table of one number per place and thread (together no more than
///           half the index), and the widening of an i32 index.
/// Source    torch.scatter_reduce (2.x).
Tensor scatter_reduce(const Tensor& self, int dim, const Tensor& index, const Tensor& src,
                      Reduce reduce, IncludeSelf include = IncludeSelf::kYes);
/// In place.
void scatter_reduce_(Tensor& self, int dim, const Tensor& index, const Tensor& src, Reduce reduce,
                     IncludeSelf include = IncludeSelf::kYes);
/// Into `out`: self's shape and dtype, memory of its own.
void scatter_reduce_out(Tensor& out, const Tensor& self, int dim, const Tensor& index,
                        const Tensor& src, Reduce reduce, IncludeSelf include = IncludeSelf::kYes);

/// How a reduction was made: what its backward needs beside the tensors.
struct ScatterReduceOptions {
  Reduce reduce = Reduce::kSum;
  IncludeSelf include = IncludeSelf::kYes;
  Ties ties = Ties::kTorch;
};

/// The gradients of a reduction with respect to both inputs.
struct ScatterReduceGrads {
  Tensor dself, dsrc;
};

/// The backward of scatter_reduce: self, index and src as they were then, dout of self's shape.
///
///   sum, mean   dout, divided by the number of elements that met for the mean
///   prod        dout times the product of all others, by exclusive products: zeros are exact
///   amax, amin  dout split evenly among all that equal the result; NaN where the result is NaN
///
/// self, src, dout  one floating dtype, any strides
/// returns          dself in self's shape (0 where index names a place and self was excluded), dsrc
///                  in src's shape (0 outside index's shape)
///
/// Throws  ArgumentError as scatter_reduce does, and for dtypes that are not floating.
/// Order   fixed, whatever the number of threads; f16 and bf16 compute in f32.
/// Source  scatter_reduce_backward of PyTorch 2.x, which refuses an index smaller than src.
ScatterReduceGrads scatter_reduce_backward(const Tensor& dout, const Tensor& self, int dim,
                                           const Tensor& index, const Tensor& src,
                                           const ScatterReduceOptions& options);

}  // namespace quire

#pragma once

#include "quire/tensor/tensor.h"

namespace quire {

/// Puts elements of `src` along one dimension where `index` says.
///
///   out = self;   out[index[i, j, k], j, k] = src[i, j, k]          for dim 0, and so on
///
/// self     any dtype and strides, rank r; rank 0 counts as one dimension of size 1
/// dim      in [-r, r)
/// index    i64 or i32, rank r, any strides, at most as large as src, and as self outside `dim`;
///          values in [0, self.size(dim)); without elements: out is a copy of self
/// src      self's dtype and rank; what lies outside index's shape is ignored
/// returns  self's dtype and shape
///
/// Aliasing  in place: self has no element twice (not expanded) and shares no memory with the rest.
/// Throws    ArgumentError on the above before anything is written; a bad value with its position.
/// Order     of several writes to one place the last in index's row-major order stays, always.
/// Source    torch.scatter (2.x), where the order of duplicates is not defined.
Tensor scatter(const Tensor& self, int dim, const Tensor& index, const Tensor& src);
/// The same with one value everywhere: integers drop its fraction, bool is value != 0. Throws where
/// an integer dtype cannot hold it.
Tensor scatter(const Tensor& self, int dim, const Tensor& index, double value);
/// In place. Throws as scatter does.
void scatter_(Tensor& self, int dim, const Tensor& index, const Tensor& src);
/// In place with one value. Throws as scatter does.
void scatter_(Tensor& self, int dim, const Tensor& index, double value);
/// Into `out`: self's shape and dtype, memory of its own. Throws as scatter does.
void scatter_out(Tensor& out, const Tensor& self, int dim, const Tensor& index, const Tensor& src);

/// The gradients of a scatter or scatter_add.
struct ScatterGrads {
  Tensor dself, dsrc;
};

/// dself = dout with zeros where something was put; dsrc = dout gathered there, in src_shape, with
/// zeros outside index's shape. Of several writes to one place each receives the gradient, as in
/// PyTorch. dout is of a floating dtype. Throws as scatter does.
ScatterGrads scatter_backward(const Tensor& dout, int dim, const Tensor& index,
                              const Shape& src_shape);

/// scatter that adds: out[index[i, j, k], j, k] += src[i, j, k]. Integers wrap, bool is "or"; f16
/// and bf16 add in f32 and round once. Equals scatter_reduce with Reduce::kSum. Throws as scatter
/// does.
Tensor scatter_add(const Tensor& self, int dim, const Tensor& index, const Tensor& src);
/// In place. Throws as scatter does.
void scatter_add_(Tensor& self, int dim, const Tensor& index, const Tensor& src);
/// Into `out`: self's shape and dtype, memory of its own. Throws as scatter does.
void scatter_add_out(Tensor& out, const Tensor& self, int dim, const Tensor& index,
                     const Tensor& src);

/// dself = dout; dsrc = dout gathered, in src_shape, with zeros outside index's shape. Throws as
/// scatter does.
ScatterGrads scatter_add_backward(const Tensor& dout, int dim, const Tensor& index,
                                  const Shape& src_shape);

}  // namespace quire

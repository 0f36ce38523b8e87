#pragma once

#include <optional>

#include "quire/tensor/tensor.h"

namespace quire {

/// gather whose two arguments broadcast against each other outside `dim`: what undoes a sort, or
/// follows an argsort or argmax.
///
/// self     any dtype and strides, rank r
/// index    i64 or i32, rank r; outside `dim` the sizes are equal or one of them is 1; values in
///          [-self.size(dim), self.size(dim)), negative ones count from the end
/// dim      in [-r, r); without one both are taken as flat, in row-major order
/// returns  self's dtype; the broadcast shape with index's size at `dim`
///
/// Throws   ArgumentError on the above before anything is written; a bad value with its position.
/// Source   torch.take_along_dim (2.x), which has i64 only.
Tensor take_along_dim(const Tensor& self, const Tensor& index,
                      std::optional<int> dim = std::nullopt);

/// dself in `self_shape`: every element of dout added where it was picked, also over what self was
/// broadcast along. Throws as take_along_dim does, and on dout's shape.
Tensor take_along_dim_backward(const Tensor& dout, const Shape& self_shape, const Tensor& index,
                               std::optional<int> dim = std::nullopt);

}  // namespace quire

#pragma once

#include <algorithm>
#include <string_view>

#include "quire/base/error.h"
#include "quire/tensor/tensor.h"

namespace quire {

/// The common shape of two under broadcasting: aligned at the last dimension, sizes equal or 1.
/// Throws ArgumentError: "add: dimension 1 of a is 3, but of b it is 4".
inline Shape broadcast_shape(std::string_view op, const Shape& a, const Shape& b) {
  const std::size_t rank = std::max(a.size(), b.size());
  Shape out(rank);
  for (std::size_t d = 0; d < rank; ++d) {
    const bool in_a = d + a.size() >= rank, in_b = d + b.size() >= rank;
    const std::int64_t from_a = in_a ? a[d + a.size() - rank] : 1;
    const std::int64_t from_b = in_b ? b[d + b.size() - rank] : 1;
    QUIRE_CHECK(from_a == from_b || from_a == 1 || from_b == 1, op, ": dimension ",
                d + a.size() - rank, " of a is ", from_a, ", but of b it is ", from_b);
    out[d] = from_a == 1 ? from_b : from_a;
  }
  return out;
}

inline void check_floating(std::string_view op, std::string_view name, const Tensor& x) {
  QUIRE_CHECK(is_floating(x.dtype()), op, ": ", name, " is ", to_string(x.dtype()),
              ", expected f64, f32, bf16 or f16");
}

inline void check_same_dtype(std::string_view op, std::string_view name_a, const Tensor& a,
                             std::string_view name_b, const Tensor& b) {
  QUIRE_CHECK(a.dtype() == b.dtype(), op, ": ", name_a, " is ", to_string(a.dtype()), ", but ",
              name_b, " is ", to_string(b.dtype()));
}

inline void check_same_shape(std::string_view op, std::string_view name_a, const Tensor& a,
                             std::string_view name_b, const Tensor& b) {
  QUIRE_CHECK(a.rank() == b.rank(), op, ": ", name_a, " has rank ", a.rank(), ", but ", name_b,
              " has rank ", b.rank());
  for (int d = 0; d < a.rank(); ++d) {
    QUIRE_CHECK(a.size(d) == b.size(d), op, ": dimension ", d, " of ", name_a, " is ", a.size(d),
                ", but of ", name_b, " it is ", b.size(d));
  }
}

/// A dimension as a number from 0; negative ones count from the end. Rank 0 counts as 1.
inline int wrapped_dim(std::string_view op, int dim, int rank) {
  const int limit = std::max(rank, 1);
  QUIRE_CHECK(dim >= -limit && dim < limit, op, ": dim is ", dim, ", but the rank is ", rank);
  return dim < 0 ? dim + limit : dim;
}

/// A tensor as [outer, n, inner] around one dimension.
struct Split {
  std::int64_t outer = 1, n = 1, inner = 1;
};
inline Split split_at(const Shape& shape, int dim) {
  Split out;
  for (std::size_t d = 0; d < shape.size(); ++d) {
    const auto at = static_cast<std::size_t>(dim);
    (d < at ? out.outer : d == at ? out.n : out.inner) *= shape[d];
  }
  return out;
}

}  // namespace quire

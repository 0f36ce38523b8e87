#include "quire/ops/math/reduce.h"

#include <algorithm>
#include <numeric>

#include "quire/ops/math/broadcast.h"
#include "quire/ops/math/reduce_kernel.h"

namespace quire {
namespace {

using kernel::Reduction;

Shape reduced_shape(const Shape& shape, const std::vector<bool>& gone, Axis axis) {
  Shape out;
  for (std::size_t d = 0; d < shape.size(); ++d) {
    if (!gone[d]) out.push_back(shape[d]);
    if (gone[d] && axis == Axis::kKeep) out.push_back(1);
  }
  return out;
}

std::vector<bool> marked(std::string_view op, const std::vector<int>& dims, int rank) {
  std::vector<bool> gone(static_cast<std::size_t>(std::max(rank, 1)));
  for (const int dim : dims) {
    const auto d = static_cast<std::size_t>(wrapped_dim(op, dim, rank));
    QUIRE_CHECK(!gone[d], op, ": dim ", dim, " is named twice");
    gone[d] = true;
  }
  return gone;
}

std::vector<int> all_dims(const Tensor& x) {
  std::vector<int> dims(static_cast<std::size_t>(x.rank()));
  std::iota(dims.begin(), dims.end(), 0);
  return dims;
}

// The reduced dimensions side by side: as they are when nothing stands between them, else moved to
// the end in their order.
Tensor side_by_side(const Tensor& x, std::vector<bool> gone, Split& split) {
  const auto first = std::find(gone.begin(), gone.end(), true) - gone.begin();
  const auto count = std::count(gone.begin(), gone.end(), true);
  const bool together =
      std::all_of(gone.begin() + first, gone.begin() + first + count, [](bool is) { return is; });
  Tensor moved = x;
  int from = static_cast<int>(first);
  if (!together) {
    const int rank = x.rank();
    int to = 0;  // kept dimensions move to the front one by one, past the reduced ones
    for (int d = 0; d < rank; ++d) {
      if (gone[static_cast<std::size_t>(d)]) continue;
      for (int at = d; at > to; --at) moved = moved.transpose(at, at - 1);
      ++to;
    }
    from = to;
  }
  split = {};
  for (int d = 0; d < moved.rank(); ++d) {
    const bool inside = d >= from && d < from + static_cast<int>(count);
    (d < from ? split.outer : inside ? split.n : split.inner) *= moved.size(d);
  }
  return moved.contiguous_copy();
}

Tensor reduce(std::string_view op, Reduction reduction, const Tensor& x,
              const std::vector<int>& dims, Axis axis) {
  check_floating(op, "x", x);
  const std::vector<bool> gone = marked(op, dims, x.rank());
  Split split;
  const Tensor rows = side_by_side(x, gone, split);
  Tensor out = Tensor::empty(reduced_shape(x.shape(), gone, axis), x.dtype(), x.device());
  if (out.elements() == 0) return out;
  kernel::reduce_rows_cpu({.reduction = reduction,
                           .dtype = x.dtype(),
                           .out = out.mutable_data<void>(),
                           .index = nullptr,
                           .x = rows.data<void>(),
                           .outer = split.outer,
                           .n = split.n,
                           .inner = split.inner});
  return out;
}

}  // namespace

Tensor sum(const Tensor& x, const std::vector<int>& dims, Axis axis) {
  return reduce("sum", Reduction::kSum, x, dims, axis);
}
Tensor sum(const Tensor& x) { return sum(x, all_dims(x)); }

Tensor mean(const Tensor& x, const std::vector<int>& dims, Axis axis) {
  return reduce("mean", Reduction::kMean, x, dims, axis);
}
Tensor mean(const Tensor& x) { return mean(x, all_dims(x)); }

Tensor norm(const Tensor& x, int dim, Axis axis) {
  return reduce("norm", Reduction::kNorm, x, {dim}, axis);
}

Tensor norm_backward(const Tensor& dout, const Tensor& x, const Tensor& out, int dim) {
  check_floating("norm_backward", "x", x);
  check_same_dtype("norm_backward", "dout", dout, "x", x);
  check_same_dtype("norm_backward", "out", out, "x", x);
  check_same_shape("norm_backward", "dout", dout, "out", out);
  const Split split = split_at(x.shape(), wrapped_dim("norm_backward", dim, x.rank()));
  QUIRE_CHECK(out.elements() == split.outer * split.inner, "norm_backward: out has shape ",
              to_string(out.shape()), ", but x has shape ", to_string(x.shape()), " and dim is ",
              dim);
  Tensor dx = Tensor::empty(x.shape(), x.dtype(), x.device());
  if (dx.elements() == 0) return dx;
  const Tensor dout_rows = dout.contiguous_copy(), x_rows = x.contiguous_copy(),
               out_rows = out.contiguous_copy();
  kernel::norm_backward_cpu({.dtype = x.dtype(),
                             .dx = dx.mutable_data<void>(),
                             .dout = dout_rows.data<void>(),
                             .x = x_rows.data<void>(),
                             .out = out_rows.data<void>(),
                             .outer = split.outer,
                             .n = split.n,
                             .inner = split.inner});
  return dx;
}

MaxResult max(const Tensor& x, int dim, Axis axis) {
  check_floating("max", "x", x);
  const int d = wrapped_dim("max", dim, x.rank());
  const Split split = split_at(x.shape(), d);
  QUIRE_CHECK(split.n > 0, "max: dimension ", d, " of x is 0");
  const Shape shape = reduced_shape(x.shape(), marked("max", {dim}, x.rank()), axis);
  MaxResult out{Tensor::empty(shape, x.dtype(), x.device()),
                Tensor::empty(shape, DType::kI64, x.device())};
  if (out.values.elements() == 0) return out;
  const Tensor rows = x.contiguous_copy();
  kernel::reduce_rows_cpu({.reduction = Reduction::kMax,
                           .dtype = x.dtype(),
                           .out = out.values.mutable_data<void>(),
                           .index = out.index.mutable_data<std::int64_t>(),
                           .x = rows.data<void>(),
                           .outer = split.outer,
                           .n = split.n,
                           .inner = split.inner});
  return out;
}

Tensor max_backward(const Tensor& dout, const Tensor& index, Shape shape, int dim) {
  check_floating("max_backward", "dout", dout);
  QUIRE_CHECK(index.dtype() == DType::kI64, "max_backward: index is ", to_string(index.dtype()),
              ", expected i64");
  check_same_shape("max_backward", "dout", dout, "index", index);
  const int d = wrapped_dim("max_backward", dim, static_cast<int>(shape.size()));
  const Split split = split_at(shape, d);
  QUIRE_CHECK(dout.elements() == split.outer * split.inner, "max_backward: dout has shape ",
              to_string(dout.shape()), ", but x has shape ", to_string(shape), " and dim is ", dim);
  Tensor dx = Tensor::zeros(std::move(shape), dout.dtype(), dout.device());
  if (dout.elements() == 0) return dx;
  const Tensor dout_rows = dout.contiguous_copy(), index_rows = index.contiguous_copy();
  const std::int64_t bad =
      kernel::max_backward_cpu({.element_bytes = size_of(dout.dtype()),
                                .dx = static_cast<std::byte*>(dx.mutable_data<void>()),
                                .dout = static_cast<const std::byte*>(dout_rows.data<void>()),
                                .index = index_rows.data<std::int64_t>(),
                                .outer = split.outer,
                                .n = split.n,
                                .inner = split.inner});
  QUIRE_CHECK(bad < 0, "max_backward: index[", bad, "] is ", index_rows.data<std::int64_t>()[bad],
              ", but dimension ", d, " of x is ", split.n);
  return dx;
}

Tensor sum_to(const Tensor& x, const Shape& shape) {
  const auto rank = static_cast<int>(shape.size()), front = x.rank() - rank;
  bool fits = front >= 0;
  std::vector<int> dims;
  for (int d = 0; fits && d < x.rank(); ++d) {
    const std::int64_t kept = d < front ? 1 : shape[static_cast<std::size_t>(d - front)];
    fits = kept == 1 || kept == x.size(d);
    if (d < front || kept != x.size(d)) dims.push_back(d);
  }
  QUIRE_CHECK(fits, "sum_to: shape ", to_string(shape), " does not broadcast to ",
              to_string(x.shape()), ", the shape of x");
  if (dims.empty()) return x;
  return sum(x, dims, Axis::kKeep).view(shape);
}

}  // namespace quire

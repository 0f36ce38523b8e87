#include "quire/ops/index/take_along_dim.h"

#include "quire/base/error.h"
#include "quire/ops/index/gather.h"
#include "quire/ops/index/index_add.h"
#include "quire/ops/index/index_check.h"
#include "quire/ops/index/scatter.h"

namespace quire {
namespace {

struct Pair {
  Shape self, index;
  int dim;
};

// The shapes of both after broadcasting outside the dimension.
Pair broadcast(const Shape& self, const Tensor& index, int dim) {
  const int rank = static_cast<int>(self.size());
  QUIRE_CHECK(index.rank() == rank, "index: rank is ", index.rank(), ", but self has rank ", rank);
  Pair out{self, index.shape(), detail::wrap_dim(dim, rank)};
  for (int d = 0; d < rank; ++d) {
    const auto i = static_cast<std::size_t>(d);
    if (d == out.dim) continue;
    QUIRE_CHECK(self[i] == out.index[i] || self[i] == 1 || out.index[i] == 1, "index: size is ",
                out.index[i], " at dim ", d, ", but self has ", self[i], " there");
    const std::int64_t size = self[i] == 1 ? out.index[i] : self[i];
    out.self[i] = out.index[i] = size;
  }
  return out;
}

// Without negative values, in the broadcast shape.
Tensor named(const Tensor& index, const Shape& self, const Pair& shapes) {
  const std::int64_t size = self.empty() ? 1 : self[static_cast<std::size_t>(shapes.dim)];
  return detail::count_from_end(index, size, shapes.dim).expand(shapes.index);
}

Tensor flat(const Tensor& x) { return x.contiguous_copy().view({x.elements()}); }

}  // namespace

Tensor take_along_dim(const Tensor& self, const Tensor& index, std::optional<int> dim) {
  detail::check_index_dtype(index);
  if (!dim) {
    return gather(flat(self), 0, detail::count_from_end(flat(index), self.elements(), 0));
  }
  const Pair shapes = broadcast(self.shape(), index, *dim);
  return gather(self.expand(shapes.self), shapes.dim, named(index, self.shape(), shapes));
}

Tensor take_along_dim_backward(const Tensor& dout, const Shape& self_shape, const Tensor& index,
                               std::optional<int> dim) {
  detail::check_floating(dout, "dout");
  detail::check_index_dtype(index);
  if (!dim) {
    std::int64_t elements = 1;
    for (const std::int64_t size : self_shape) elements *= size;
    const Tensor from = detail::count_from_end(flat(index), elements, 0);
    return gather_backward(flat(dout), {elements}, 0, from).view(self_shape);
  }
  const Pair shapes = broadcast(self_shape, index, *dim);
  Tensor dself = gather_backward(dout, shapes.self, shapes.dim, named(index, self_shape, shapes));
  for (int d = 0; d < dself.rank(); ++d) {
    const std::int64_t size = self_shape[static_cast<std::size_t>(d)];
    if (dself.size(d) == size) continue;
    // What was broadcast along comes back to its one slice.
    Shape shape = dself.shape();
    shape[static_cast<std::size_t>(d)] = size;
    Tensor sum = Tensor::zeros(shape, dself.dtype(), dself.device());
    index_add_(sum, d, Tensor::zeros({dself.size(d)}, DType::kI64), dself);
    dself = sum;
  }
  return dself;
}

}  // namespace quire

#include "quire/ops/index/gather.h"

#include "quire/base/error.h"
#include "quire/ops/index/gather_kernel.h"
#include "quire/ops/index/index_check.h"
#include "quire/ops/index/scatter.h"

namespace quire {
namespace {

using detail::at_least_1d;

// What gather and gather_out check alike; the wrapped dim. Nothing is left to do without elements.
int check(const Tensor& self, int dim, const Tensor& index, SparseGrad sparse_grad) {
  const int at = detail::wrap_dim(dim, self.rank());
  QUIRE_CHECK(sparse_grad == SparseGrad::kNo,
              "sparse_grad is kYes, but sparse gradients are not offered: use SparseGrad::kNo");
  if (index.elements() == 0) return at;
  detail::check_index_dtype(index);
  detail::check_fits(at_least_1d(index), at_least_1d(self), "self", at);
  return at;
}

bool copy(Tensor& out, const Tensor& self, int at, const Tensor& index) {
  Tensor place = at_least_1d(self), plain = at_least_1d(out);
  const kernel::Walk walk = detail::make_walk(at_least_1d(index), at, place, plain);
  return kernel::gather_cpu({.walk = &walk,
                             .out = plain.mutable_data<void>(),
                             .self = place.data<void>(),
                             .element_bytes = static_cast<std::int64_t>(size_of(self.dtype()))});
}

}  // namespace

Tensor gather(const Tensor& self, int dim, const Tensor& index, SparseGrad sparse_grad) {
  const int at = check(self, dim, index, sparse_grad);
  Tensor out = Tensor::empty(index.shape(), self.dtype(), self.device());
  if (out.elements() == 0) return out;
  const Tensor wide = detail::with_rows_expanded(detail::widen_index(index), at);
  // Nobody has seen `out` yet, so the values are checked while the copy reads them.
  if (!copy(out, self, at, wide)) detail::check_index_values(wide, at_least_1d(self).size(at), at);
  return out;
}

void gather_out(Tensor& out, const Tensor& self, int dim, const Tensor& index,
                SparseGrad sparse_grad) {
  const int at = check(self, dim, index, sparse_grad);
  detail::check_same_dtype(out, "out", self);
  detail::check_same_shape(out, "out", index.shape());
  detail::check_no_overlap(out, "out");
  if (out.elements() == 0) return;
  Tensor wide = detail::widen_index(index), from = self;
  detail::separate(out, "out", wide, "index");
  detail::separate(out, "out", from, "self");
  wide = detail::with_rows_expanded(wide, at);
  detail::check_index_values(wide, at_least_1d(self).size(at), at);
  copy(out, from, at, wide);
}

Tensor gather_backward(const Tensor& dout, const Shape& self_shape, int dim, const Tensor& index) {
  detail::check_floating(dout, "dout");
  detail::check_same_shape(dout, "dout", index.shape());
  Tensor dself = Tensor::zeros(self_shape, dout.dtype(), dout.device());
  scatter_add_(dself, dim, index, dout);
  return dself;
}

}  // namespace quire

#include "quire/ops/index/scatter_reduce.h"

#include "quire/base/error.h"
#include "quire/ops/index/gather.h"
#include "quire/ops/index/index_check.h"
#include "quire/ops/index/scatter_backward_kernel.h"
#include "quire/ops/index/scatter_run.h"

namespace quire {
namespace {

detail::ScatterCall call(int dim, const Tensor& index, const Tensor& src, Reduce reduce,
                         IncludeSelf include) {
  return {.dim = dim,
          .index = index,
          .src = src,
          .combine = detail::to_combine(reduce),
          .include = include == IncludeSelf::kYes};
}

void check_backward(const Tensor& dout, const Tensor& self, int at, const Tensor& index,
                    const Tensor& src) {
  detail::check_floating(self, "self");
  detail::check_same_dtype(dout, "dout", self);
  detail::check_same_dtype(src, "src", self);
  detail::check_same_shape(dout, "dout", self.shape());
  if (index.elements() == 0) return;
  detail::check_index_dtype(index);
  const Tensor wide = detail::at_least_1d(index);
  detail::check_fits(wide, detail::at_least_1d(self), "self", at);
  detail::check_fits(wide, detail::at_least_1d(src), "src", -1);
}

}  // namespace

Tensor scatter_reduce(const Tensor& self, int dim, const Tensor& index, const Tensor& src,
                      Reduce reduce, IncludeSelf include) {
  return detail::scatter_new(self, call(dim, index, src, reduce, include));
}

void scatter_reduce_(Tensor& self, int dim, const Tensor& index, const Tensor& src, Reduce reduce,
                     IncludeSelf include) {
  detail::scatter_in_place(self, call(dim, index, src, reduce, include));
}

void scatter_reduce_out(Tensor& out, const Tensor& self, int dim, const Tensor& index,
                        const Tensor& src, Reduce reduce, IncludeSelf include) {
  detail::scatter_into(out, self, call(dim, index, src, reduce, include));
}

ScatterReduceGrads scatter_reduce_backward(const Tensor& dout, const Tensor& self, int dim,
                                           const Tensor& index, const Tensor& src,
                                           const ScatterReduceOptions& options) {
  const int at = detail::wrap_dim(dim, self.rank());
  check_backward(dout, self, at, index, src);
  ScatterReduceGrads grads{dout.to(dout.dtype()),
                           Tensor::zeros(src.shape(), src.dtype(), src.device())};
  if (index.elements() == 0) return grads;
  const Tensor wide =
      detail::with_rows_expanded(detail::at_least_1d(detail::widen_index(index)), at);
  Tensor dself = detail::at_least_1d(grads.dself), dsrc = detail::at_least_1d(grads.dsrc);
  detail::check_index_values(wide, dself.size(at), at);
  if (options.reduce == Reduce::kSum && options.include == IncludeSelf::kYes) {
    grads.dsrc = detail::padded(gather(dout, dim, index), src.shape());
    return grads;
  }
  const Tensor same_self = self.contiguous_copy(), same_dout = dout.contiguous_copy(),
               same_src = src.contiguous_copy();
  const kernel::Walk walk = detail::make_walk(wide, at, dself, dsrc);
  kernel::scatter_backward_cpu(
      {.walk = &walk,
       .dself = dself.mutable_data<void>(),
       .dsrc = dsrc.mutable_data<void>(),
       .dout = same_dout.data<void>(),
       .self = same_self.data<void>(),
       .src = same_src.data<void>(),
       .dtype = self.dtype(),
       .combine = detail::to_combine(options.reduce),
       .include = options.include == IncludeSelf::kYes,
       .self_ties = options.include == IncludeSelf::kYes || options.ties == Ties::kTorch});
  return grads;
}

}  // namespace quire

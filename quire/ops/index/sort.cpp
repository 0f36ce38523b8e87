#include "quire/ops/index/sort.h"

#include "quire/base/error.h"
#include "quire/ops/index/index_check.h"
#include "quire/ops/index/scatter.h"
#include "quire/ops/index/sort_kernel.h"

namespace quire {

Sorted sort(const Tensor& x, int dim, SortOrder order) {
  const int at = detail::wrap_dim(dim, x.rank());
  Sorted out{Tensor::empty(x.shape(), x.dtype(), x.device()),
             Tensor::empty(x.shape(), DType::kI64, x.device())};
  if (x.elements() == 0) return out;
  const Tensor from = detail::at_least_1d(x);
  Tensor values = detail::at_least_1d(out.values), index = detail::at_least_1d(out.index);
  const auto d = static_cast<std::size_t>(at);
  kernel::Sort args{.values = values.mutable_data<void>(),
                    .index = index.mutable_data<std::int64_t>(),
                    .x = from.data<void>(),
                    .N = from.shape()[d],
                    .out_step = values.strides()[d],
                    .x_step = from.strides()[d],
                    .sizes = from.shape(),
                    .out_strides = values.strides(),
                    .x_strides = from.strides(),
                    .dtype = x.dtype(),
                    .descending = order == SortOrder::kDescending};
  args.sizes[d] = 1;
  kernel::sort_cpu(args);
  return out;
}

Tensor argsort(const Tensor& x, int dim, SortOrder order) { return sort(x, dim, order).index; }

Tensor sort_backward(const Tensor& dvalues, int dim, const Tensor& index) {
  detail::check_floating(dvalues, "dvalues");
  detail::check_same_shape(dvalues, "dvalues", index.shape());
  Tensor dx = Tensor::zeros(index.shape(), dvalues.dtype(), dvalues.device());
  scatter_(dx, dim, index, dvalues);
  return dx;
}

}  // namespace quire

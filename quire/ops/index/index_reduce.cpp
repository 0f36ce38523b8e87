#include "quire/ops/index/index_reduce.h"

#include "quire/base/error.h"
#include "quire/ops/index/index_check.h"
#include "quire/ops/index/scatter_run.h"

namespace quire {
namespace {

Tensor check(const Tensor& self, int at, const Tensor& index_N, const Tensor& source,
             Reduce reduce) {
  detail::check_slices(self, at, index_N, source);
  QUIRE_CHECK(self.dtype() != DType::kBool, "self is bool, which index_reduce does not take");
  QUIRE_CHECK(reduce != Reduce::kSum, "reduce is kSum: index_add sums slices");
  return detail::expand_index(index_N, at, source.shape(), "source");
}

detail::ScatterCall call(int at, const Tensor& index, const Tensor& source, Reduce reduce,
                         IncludeSelf include) {
  return {.dim = at,
          .index = index,
          .src = source,
          .combine = detail::to_combine(reduce),
          .include = include == IncludeSelf::kYes,
          .self_counts = true,
          .alpha = 1,
          .src_name = "source"};
}

}  // namespace

Tensor index_reduce(const Tensor& self, int dim, const Tensor& index_N, const Tensor& source,
                    Reduce reduce, IncludeSelf include) {
  const int at = detail::wrap_dim(dim, self.rank());
  const Tensor index = check(self, at, index_N, source, reduce);
  return detail::scatter_new(self, call(at, index, source, reduce, include));
}

void index_reduce_(Tensor& self, int dim, const Tensor& index_N, const Tensor& source,
                   Reduce reduce, IncludeSelf include) {
  const int at = detail::wrap_dim(dim, self.rank());
  const Tensor index = check(self, at, index_N, source, reduce);
  detail::scatter_in_place(self, call(at, index, source, reduce, include));
}

void index_reduce_out(Tensor& out, const Tensor& self, int dim, const Tensor& index_N,
                      const Tensor& source, Reduce reduce, IncludeSelf include) {
  const int at = detail::wrap_dim(dim, self.rank());
  const Tensor index = check(self, at, index_N, source, reduce);
  detail::scatter_into(out, self, call(at, index, source, reduce, include));
}

ScatterReduceGrads index_reduce_backward(const Tensor& dout, const Tensor& self, int dim,
                                         const Tensor& index_N, const Tensor& source,
                                         const ScatterReduceOptions& options) {
  const int at = detail::wrap_dim(dim, self.rank());
  const Tensor index = check(self, at, index_N, source, options.reduce);
  return scatter_reduce_backward(dout, self, at, index, source, options);
}

}  // namespace quire

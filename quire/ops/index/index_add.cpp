#include "quire/ops/index/index_add.h"

#include <cmath>

#include "quire/base/error.h"
#include "quire/ops/index/index_check.h"
#include "quire/ops/index/index_select.h"
#include "quire/ops/index/scatter_run.h"

namespace quire {
namespace {

// The index with source's shape; everything about shapes and alpha that can be wrong.
Tensor check(const Tensor& self, int at, const Tensor& index_N, const Tensor& source,
             double alpha) {
  detail::check_slices(self, at, index_N, source);
  if (self.dtype() == DType::kBool) {
    QUIRE_CHECK(alpha == 0 || alpha == 1, "alpha is ", alpha, ", but self is bool: 0 or 1");
  } else if (!is_floating(self.dtype())) {
    QUIRE_CHECK(std::trunc(alpha) == alpha && std::abs(alpha) <= 0x1p53, "alpha is ", alpha,
                ", but self is ", to_string(self.dtype()), ": a whole number");
  }
  return detail::expand_index(index_N, at, source.shape(), "source");
}

detail::ScatterCall call(int at, const Tensor& index, const Tensor& source, double alpha) {
  return {.dim = at,
          .index = index,
          .src = source,
          .combine = kernel::Combine::kSum,
          .include = true,
          .self_counts = true,
          .alpha = alpha,
          .src_name = "source"};
}

}  // namespace

Tensor index_add(const Tensor& self, int dim, const Tensor& index_N, const Tensor& source,
                 double alpha) {
  const int at = detail::wrap_dim(dim, self.rank());
  const Tensor index = check(self, at, index_N, source, alpha);
  return detail::scatter_new(self, call(at, index, source, alpha));
}

void index_add_(Tensor& self, int dim, const Tensor& index_N, const Tensor& source, double alpha) {
  const int at = detail::wrap_dim(dim, self.rank());
  const Tensor index = check(self, at, index_N, source, alpha);
  detail::scatter_in_place(self, call(at, index, source, alpha));
}

void index_add_out(Tensor& out, const Tensor& self, int dim, const Tensor& index_N,
                   const Tensor& source, double alpha) {
  const int at = detail::wrap_dim(dim, self.rank());
  const Tensor index = check(self, at, index_N, source, alpha);
  detail::scatter_into(out, self, call(at, index, source, alpha));
}

IndexAddGrads index_add_backward(const Tensor& dout, int dim, const Tensor& index_N, double alpha) {
  detail::check_floating(dout, "dout");
  Tensor dsource = index_select(dout, dim, index_N);
  if (alpha != 1) {
    // zeros + alpha · dsource, every slice to its own place.
    const int at = detail::wrap_dim(dim, dout.rank());
    Tensor scaled = Tensor::zeros(dsource.shape(), dsource.dtype(), dsource.device());
    const std::int64_t length = dsource.rank() == 0 ? 1 : dsource.size(at);
    const Tensor own = detail::count_up(length);
    index_add_(scaled, at, own, dsource, alpha);
    dsource = scaled;
  }
  return {dout.to(dout.dtype()), dsource};
}

}  // namespace quire

#include "quire/ops/index/index_select.h"

#include "quire/base/error.h"
#include "quire/ops/index/gather.h"
#include "quire/ops/index/index_add.h"
#include "quire/ops/index/index_check.h"
#include "quire/ops/index/scatter_run.h"

namespace quire {
namespace {

Shape selected_shape(const Shape& shape, int dim, const Tensor& index_N) {
  const std::int64_t length = detail::index_length(index_N);
  QUIRE_CHECK(!shape.empty() || length == 1, "index: size is ", length,
              ", but self has rank 0, of which only one element can be selected");
  Shape out = shape;
  if (!out.empty()) out[static_cast<std::size_t>(dim)] = length;
  return out;
}

}  // namespace

Tensor index_select(const Tensor& self, int dim, const Tensor& index_N) {
  const int at = detail::wrap_dim(dim, self.rank());
  const Shape shape = selected_shape(self.shape(), at, index_N);
  return gather(self, at, detail::expand_index(index_N, at, shape, "out"));
}

void index_select_out(Tensor& out, const Tensor& self, int dim, const Tensor& index_N) {
  const int at = detail::wrap_dim(dim, self.rank());
  const Shape shape = selected_shape(self.shape(), at, index_N);
  gather_out(out, self, at, detail::expand_index(index_N, at, shape, "out"));
}

Tensor index_select_backward(const Tensor& dout, const Shape& self_shape, int dim,
                             const Tensor& index_N) {
  const int at = detail::wrap_dim(dim, static_cast<int>(self_shape.size()));
  detail::check_floating(dout, "dout");
  detail::check_same_shape(dout, "dout", selected_shape(self_shape, at, index_N));
  Tensor dself = Tensor::zeros(self_shape, dout.dtype(), dout.device());
  index_add_(dself, at, index_N, dout);
  return dself;
}

}  // namespace quire

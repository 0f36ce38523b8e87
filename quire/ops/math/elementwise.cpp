#include "quire/ops/math/elementwise.h"

#include "quire/base/error.h"
#include "quire/ops/math/elementwise_kernel.h"

namespace quire {

void add_(Tensor& x, const Tensor& y) {
  QUIRE_CHECK(x.dtype() == DType::kF32, "add_: x is ", to_string(x.dtype()), ", expected f32");
  QUIRE_CHECK(y.dtype() == DType::kF32, "add_: y is ", to_string(y.dtype()), ", expected f32");
  QUIRE_CHECK(x.rank() == y.rank(), "add_: x has rank ", x.rank(), ", but y has rank ", y.rank());
  for (int d = 0; d < x.rank(); ++d) {
    QUIRE_CHECK(x.size(d) == y.size(d), "add_: dimension ", d, " of x is ", x.size(d),
                ", but of y it is ", y.size(d));
  }
  QUIRE_CHECK(x.contiguous(), "add_: x of shape ", to_string(x.shape()), " is not contiguous");
  const Tensor y_rows = y.contiguous_copy();
  kernel::add_cpu({.x_N = x.mutable_data<float>(), .y_N = y_rows.data<float>(), .N = x.elements()});
}

}  // namespace quire

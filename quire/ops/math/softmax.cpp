#include "quire/ops/math/softmax.h"

#include "quire/ops/math/broadcast.h"
#include "quire/ops/math/softmax_kernel.h"

namespace quire {

Tensor softmax(const Tensor& x, int dim) {
  check_floating("softmax", "x", x);
  const Split split = split_at(x.shape(), wrapped_dim("softmax", dim, x.rank()));
  Tensor out = Tensor::empty(x.shape(), x.dtype(), x.device());
  if (out.elements() == 0) return out;
  const Tensor rows = x.contiguous_copy();
  kernel::softmax_cpu({.dtype = x.dtype(),
                       .out = out.mutable_data<void>(),
                       .x = rows.data<void>(),
                       .outer = split.outer,
                       .n = split.n,
                       .inner = split.inner});
  return out;
}

Tensor softmax_backward(const Tensor& dout, const Tensor& out, int dim) {
  check_floating("softmax_backward", "out", out);
  check_same_dtype("softmax_backward", "dout", dout, "out", out);
  check_same_shape("softmax_backward", "dout", dout, "out", out);
  const Split split = split_at(out.shape(), wrapped_dim("softmax_backward", dim, out.rank()));
  Tensor dx = Tensor::empty(out.shape(), out.dtype(), out.device());
  if (dx.elements() == 0) return dx;
  const Tensor dout_rows = dout.contiguous_copy(), out_rows = out.contiguous_copy();
  kernel::softmax_backward_cpu({.dtype = out.dtype(),
                                .dx = dx.mutable_data<void>(),
                                .dout = dout_rows.data<void>(),
                                .out = out_rows.data<void>(),
                                .outer = split.outer,
                                .n = split.n,
                                .inner = split.inner});
  return dx;
}

}  // namespace quire

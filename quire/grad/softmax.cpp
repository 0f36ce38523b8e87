#include "quire/ops/math/softmax.h"

#include "quire/grad/math.h"
#include "quire/grad/record.h"

namespace quire::grad {

Var softmax(const Var& x, int dim) {
  Tensor out = quire::softmax(x.value(), dim);
  if (!recording(x)) return Var(std::move(out));
  return record_once("softmax", out, {x}, [out = Saved("softmax", out), dim](const Tensor& dout) {
    return Tensors{softmax_backward(dout, out.tensor(), dim)};
  });
}

}  // namespace quire::grad

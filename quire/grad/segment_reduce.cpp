#include "quire/ops/index/segment_reduce.h"

#include "quire/grad/index.h"
#include "quire/grad/record.h"

namespace quire::grad {

Var segment_reduce(const Var& x, const Tensor& start_J, Reduce reduce,
                   std::optional<double> initial, int dim) {
  Tensor out = quire::segment_reduce(x.value(), start_J, reduce, initial, dim);
  if (!recording(x)) return Var(std::move(out));
  return record_once(
      "segment_reduce", std::move(out), {x},
      [x = Saved("segment_reduce", x.value()), start = Saved("segment_reduce", start_J), reduce,
       initial, dim](const Tensor& dout) {
        return Tensors{
            segment_reduce_backward(dout, x.tensor(), start.tensor(), reduce, initial, dim)};
      });
}

}  // namespace quire::grad

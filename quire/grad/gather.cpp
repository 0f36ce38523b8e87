#include "quire/ops/index/gather.h"

#include "quire/grad/index.h"
#include "quire/grad/record.h"

namespace quire::grad {

Var gather(const Var& self, int dim, const Tensor& index) {
  Tensor out = quire::gather(self.value(), dim, index);
  if (!recording(self)) return Var(std::move(out));
  return record("gather", std::move(out), {self},
                [index = Saved("gather", index), shape = self.shape(), dim](const Var& dout) {
                  if (!recording(dout))
                    return Vars{Var(gather_backward(dout.value(), shape, dim, index.tensor()))};
                  const Var zeros(Tensor::zeros(shape, dout.dtype()));
                  return Vars{scatter_add(zeros, dim, index.tensor(), dout)};
                });
}

}  // namespace quire::grad

#include "quire/ops/index/index_select.h"

#include "quire/grad/index.h"
#include "quire/grad/record.h"

namespace quire::grad {

Var index_select(const Var& self, int dim, const Tensor& index_N) {
  Tensor out = quire::index_select(self.value(), dim, index_N);
  if (!recording(self)) return Var(std::move(out));
  return record(
      "index_select", std::move(out), {self},
      [index = Saved("index_select", index_N), shape = self.shape(), dim](const Var& dout) {
        if (!recording(dout)) {
          return Vars{Var(index_select_backward(dout.value(), shape, dim, index.tensor()))};
        }
        const Var zeros(Tensor::zeros(shape, dout.dtype()));
        return Vars{index_add(zeros, dim, index.tensor(), dout)};
      });
}

}  // namespace quire::grad

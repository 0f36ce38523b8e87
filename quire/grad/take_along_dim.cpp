#include "quire/ops/index/take_along_dim.h"

#include "quire/grad/index.h"
#include "quire/grad/record.h"

namespace quire::grad {

Var take_along_dim(const Var& self, const Tensor& index, std::optional<int> dim) {
  Tensor out = quire::take_along_dim(self.value(), index, dim);
  if (!recording(self)) return Var(std::move(out));
  return record_once(
      "take_along_dim", std::move(out), {self},
      [index = Saved("take_along_dim", index), shape = self.shape(), dim](const Tensor& dout) {
        return Tensors{take_along_dim_backward(dout, shape, index.tensor(), dim)};
      });
}

}  // namespace quire::grad

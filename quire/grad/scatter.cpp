#include "quire/ops/index/scatter.h"

#include "quire/grad/index.h"
#include "quire/grad/record.h"

namespace quire::grad {

Var scatter(const Var& self, int dim, const Tensor& index, const Var& src) {
  Tensor out = quire::scatter(self.value(), dim, index, src.value());
  if (!recording(self, src)) return Var(std::move(out));
  return record_once(
      "scatter", std::move(out), {self, src},
      [index = Saved("scatter", index), shape = src.shape(), dim](const Tensor& dout) {
        const ScatterGrads both = scatter_backward(dout, dim, index.tensor(), shape);
        return Tensors{both.dself, both.dsrc};
      });
}

Var scatter_add(const Var& self, int dim, const Tensor& index, const Var& src) {
  Tensor out = quire::scatter_add(self.value(), dim, index, src.value());
  if (!recording(self, src)) return Var(std::move(out));
  const auto backward = [index = Saved("scatter_add", index), shape = src.shape(),
                         dim](const Tensor& dout) {
    const ScatterGrads both = scatter_add_backward(dout, dim, index.tensor(), shape);
    return Tensors{both.dself, both.dsrc};
  };
  // What lies outside the index has no gather to give its zeros.
  if (index.shape() != src.shape())
    return record_once("scatter_add", std::move(out), {self, src}, backward);
  return record("scatter_add", std::move(out), {self, src},
                [index = Saved("scatter_add", index), backward, dim](const Var& dout) {
                  if (recording(dout)) return Vars{dout, gather(dout, dim, index.tensor())};
                  const Tensors both = backward(dout.value());
                  return Vars{Var(both[0]), Var(both[1])};
                });
}

}  // namespace quire::grad

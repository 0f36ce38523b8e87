#include "quire/ops/index/scatter_reduce.h"

#include "quire/grad/index.h"
#include "quire/grad/math.h"
#include "quire/grad/record.h"

namespace quire::grad {

Var scatter_reduce(const Var& self, int dim, const Tensor& index, const Var& src, Reduce reduce,
                   IncludeSelf include, Ties ties) {
  Tensor out = quire::scatter_reduce(self.value(), dim, index, src.value(), reduce, include);
  if (!recording(self, src)) return Var(std::move(out));
  const auto backward =
      [self = Saved("scatter_reduce", self.value()), index = Saved("scatter_reduce", index),
       src = Saved("scatter_reduce", src.value()), dim,
       options = ScatterReduceOptions{reduce, include, ties}](const Tensor& dout) {
        const ScatterReduceGrads both = scatter_reduce_backward(
            dout, self.tensor(), dim, index.tensor(), src.tensor(), options);
        return Tensors{both.dself, both.dsrc};
      };
  const bool linear = reduce == Reduce::kSum || reduce == Reduce::kMean;
  if (!linear || index.shape() != src.shape())
    return record_once("scatter_reduce", std::move(out), {self, src}, backward);
  return record("scatter_reduce", std::move(out), {self, src},
                [index = Saved("scatter_reduce", index), backward, dim](const Var& dout) {
                  if (!recording(dout)) {
                    const Tensors both = backward(dout.value());
                    return Vars{Var(both[0]), Var(both[1])};
                  }
                  // Linear in dout: what a gradient of ones becomes is every element's share.
                  const Tensors shares = backward(full(dout.shape(), 1, dout.dtype()));
                  return Vars{mul(dout, Var(shares[0])),
                              mul(gather(dout, dim, index.tensor()), Var(shares[1]))};
                });
}

}  // namespace quire::grad

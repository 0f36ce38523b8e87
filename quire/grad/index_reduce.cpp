#include "quire/ops/index/index_reduce.h"

#include "quire/grad/index.h"
#include "quire/grad/record.h"

namespace quire::grad {

Var index_reduce(const Var& self, int dim, const Tensor& index_N, const Var& source, Reduce reduce,
                 IncludeSelf include, Ties ties) {
  Tensor out = quire::index_reduce(self.value(), dim, index_N, source.value(), reduce, include);
  if (!recording(self, source)) return Var(std::move(out));
  return record_once(
      "index_reduce", std::move(out), {self, source},
      [self = Saved("index_reduce", self.value()), index = Saved("index_reduce", index_N),
       source = Saved("index_reduce", source.value()), dim,
       options = ScatterReduceOptions{reduce, include, ties}](const Tensor& dout) {
        const ScatterReduceGrads both = index_reduce_backward(
            dout, self.tensor(), dim, index.tensor(), source.tensor(), options);
        return Tensors{both.dself, both.dsrc};
      });
}

}  // namespace quire::grad

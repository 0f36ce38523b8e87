#include "quire/ops/index/index_add.h"

#include "quire/grad/index.h"
#include "quire/grad/math.h"
#include "quire/grad/record.h"

namespace quire::grad {

Var index_add(const Var& self, int dim, const Tensor& index_N, const Var& source, double alpha) {
  Tensor out = quire::index_add(self.value(), dim, index_N, source.value(), alpha);
  if (!recording(self, source)) return Var(std::move(out));
  return record("index_add", std::move(out), {self, source},
                [index = Saved("index_add", index_N), dim, alpha](const Var& dout) {
                  if (recording(dout))
                    return Vars{dout, mul(index_select(dout, dim, index.tensor()), alpha)};
                  const IndexAddGrads both =
                      index_add_backward(dout.value(), dim, index.tensor(), alpha);
                  return Vars{Var(both.dself), Var(both.dsource)};
                });
}

}  // namespace quire::grad

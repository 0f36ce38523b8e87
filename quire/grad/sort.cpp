#include "quire/ops/index/sort.h"

#include "quire/grad/index.h"
#include "quire/grad/record.h"

namespace quire::grad {

SortedVar sort(const Var& x, int dim, SortOrder order) {
  Sorted out = quire::sort(x.value(), dim, order);
  if (!recording(x)) return {Var(std::move(out.values)), std::move(out.index)};
  Var values = record_once("sort", std::move(out.values), {x},
                           [index = Saved("sort", out.index), dim](const Tensor& dout) {
                             return Tensors{sort_backward(dout, dim, index.tensor())};
                           });
  return {std::move(values), std::move(out.index)};
}

}  // namespace quire::grad

#include "quire/ops/index/repeat_interleave.h"

#include "quire/grad/index.h"
#include "quire/grad/record.h"

namespace quire::grad {

Var repeat_interleave(const Var& x, std::int64_t repeats, std::optional<int> dim) {
  Tensor out = quire::repeat_interleave(x.value(), repeats, dim);
  if (!recording(x)) return Var(std::move(out));
  return record_once("repeat_interleave", std::move(out), {x},
                     [shape = x.shape(), repeats, dim](const Tensor& dout) {
                       return Tensors{repeat_interleave_backward(dout, shape, repeats, dim)};
                     });
}

Var repeat_interleave(const Var& x, const Tensor& repeats_N, std::optional<int> dim) {
  Tensor out = quire::repeat_interleave(x.value(), repeats_N, dim);
  if (!recording(x)) return Var(std::move(out));
  return record_once(
      "repeat_interleave", std::move(out), {x},
      [shape = x.shape(), repeats = Saved("repeat_interleave", repeats_N),
       dim](const Tensor& dout) {
        return Tensors{repeat_interleave_backward(dout, shape, repeats.tensor(), dim)};
      });
}

}  // namespace quire::grad

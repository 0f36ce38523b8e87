#include "quire/ops/math/loss.h"

#include "quire/grad/math.h"
#include "quire/grad/record.h"

namespace quire::grad {

Var cross_entropy(const Var& logits_NV, const Tensor& target_N, std::int64_t ignore) {
  CrossEntropy out = quire::cross_entropy(logits_NV.value(), target_N, ignore);
  if (!recording(logits_NV)) return Var(std::move(out.loss));
  return record_once("cross_entropy", std::move(out.loss), {logits_NV},
                     [logits = Saved("cross_entropy", logits_NV.value()),
                      target = Saved("cross_entropy", target_N),
                      lse = Saved("cross_entropy", out.lse_N), ignore](const Tensor& dout) {
                       return Tensors{cross_entropy_backward(dout, logits.tensor(), target.tensor(),
                                                             lse.tensor(), ignore)};
                     });
}

}  // namespace quire::grad

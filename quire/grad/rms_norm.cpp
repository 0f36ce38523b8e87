#include "quire/ops/math/rms_norm.h"

#include "quire/grad/math.h"
#include "quire/grad/record.h"

namespace quire::grad {

Var rms_norm(const Var& x_ND, const Var& weight_D, double epsilon) {
  Tensor out = quire::rms_norm(x_ND.value(), weight_D.value(), epsilon);
  if (!recording(x_ND, weight_D)) return Var(std::move(out));
  return record_once("rms_norm", std::move(out), {x_ND, weight_D},
                     [x = Saved("rms_norm", x_ND.value()),
                      weight = Saved("rms_norm", weight_D.value()), epsilon](const Tensor& dout) {
                       const RmsNormGradients both =
                           rms_norm_backward(dout, x.tensor(), weight.tensor(), epsilon);
                       return Tensors{both.dx_ND, both.dweight_D};
                     });
}

}  // namespace quire::grad

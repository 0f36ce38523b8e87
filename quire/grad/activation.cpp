#include "quire/ops/math/activation.h"

#include "quire/grad/math.h"
#include "quire/grad/record.h"

namespace quire::grad {

Var swiglu(const Var& gate_NF, const Var& up_NF) {
  Tensor out = quire::swiglu(gate_NF.value(), up_NF.value());
  if (!recording(gate_NF, up_NF)) return Var(std::move(out));
  return record_once("swiglu", std::move(out), {gate_NF, up_NF},
                     [gate = Saved("swiglu", gate_NF.value()),
                      up = Saved("swiglu", up_NF.value())](const Tensor& dout) {
                       const SwigluGradients both =
                           swiglu_backward(dout, gate.tensor(), up.tensor());
                       return Tensors{both.dgate_NF, both.dup_NF};
                     });
}

}  // namespace quire::grad

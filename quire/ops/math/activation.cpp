#include "quire/ops/math/activation.h"

#include "quire/base/error.h"
#include "quire/ops/math/activation_kernel.h"
#include "quire/tensor/dims.h"

namespace quire {

Tensor swiglu(const Tensor& gate_NF, const Tensor& up_NF) {
  const Dims dims = QUIRE_DIMS(gate_NF, up_NF);
  QUIRE_CHECK(gate_NF.dtype() == DType::kF32, "gate_NF is ", to_string(gate_NF.dtype()),
              ", expected f32");
  QUIRE_CHECK(up_NF.dtype() == DType::kF32, "up_NF is ", to_string(up_NF.dtype()),
              ", expected f32");
  const Tensor gate = gate_NF.contiguous_copy(), up = up_NF.contiguous_copy();
  Tensor out = Tensor::empty({dims['N'], dims['F']}, DType::kF32, gate_NF.device());
  kernel::swiglu_cpu({.out_N = out.mutable_data<float>(),
                      .gate_N = gate.data<float>(),
                      .up_N = up.data<float>(),
                      .N = out.elements()});
  return out;
}

}  // namespace quire

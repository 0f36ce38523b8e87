#include "quire/ops/math/activation.h"

#include "quire/base/error.h"
#include "quire/ops/math/activation_kernel.h"
#include "quire/ops/math/broadcast.h"
#include "quire/tensor/dims.h"

namespace quire {
namespace {

void check_dtypes(const Tensor& gate_NF, const Tensor& up_NF) {
  QUIRE_CHECK(gate_NF.dtype() == DType::kF32 || gate_NF.dtype() == DType::kF64, "gate_NF is ",
              to_string(gate_NF.dtype()), ", expected f32 or f64");
  QUIRE_CHECK(up_NF.dtype() == gate_NF.dtype(), "up_NF is ", to_string(up_NF.dtype()),
              ", expected ", to_string(gate_NF.dtype()), ", the dtype of gate_NF");
}

}  // namespace

Tensor swiglu(const Tensor& gate_NF, const Tensor& up_NF) {
  const Dims dims = QUIRE_DIMS(gate_NF, up_NF);
  check_dtypes(gate_NF, up_NF);
  const Tensor gate = gate_NF.contiguous_copy(), up = up_NF.contiguous_copy();
  Tensor out = Tensor::empty({dims['N'], dims['F']}, gate_NF.dtype(), gate_NF.device());
  if (gate_NF.dtype() == DType::kF64) {
    kernel::swiglu_f64_cpu({.out_N = out.mutable_data<double>(),
                            .gate_N = gate.data<double>(),
                            .up_N = up.data<double>(),
                            .N = out.elements()});
    return out;
  }
  kernel::swiglu_cpu({.out_N = out.mutable_data<float>(),
                      .gate_N = gate.data<float>(),
                      .up_N = up.data<float>(),
                      .N = out.elements()});
  return out;
}

SwigluGradients swiglu_backward(const Tensor& dout_NF, const Tensor& gate_NF, const Tensor& up_NF) {
  (void)QUIRE_DIMS(dout_NF, gate_NF, up_NF);
  check_dtypes(gate_NF, up_NF);
  check_same_dtype("swiglu_backward", "dout_NF", dout_NF, "gate_NF", gate_NF);
  const Tensor dout = dout_NF.contiguous_copy(), gate = gate_NF.contiguous_copy(),
               up = up_NF.contiguous_copy();
  SwigluGradients out{Tensor::empty(gate.shape(), gate.dtype(), gate.device()),
                      Tensor::empty(gate.shape(), gate.dtype(), gate.device())};
  kernel::swiglu_backward_cpu({.dtype = gate.dtype(),
                               .dgate_N = out.dgate_NF.mutable_data<void>(),
                               .dup_N = out.dup_NF.mutable_data<void>(),
                               .dout_N = dout.data<void>(),
                               .gate_N = gate.data<void>(),
                               .up_N = up.data<void>(),
                               .N = gate.elements()});
  return out;
}

}  // namespace quire

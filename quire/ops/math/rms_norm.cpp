#include "quire/ops/math/rms_norm.h"

#include <cmath>

#include "quire/base/error.h"
#include "quire/ops/math/broadcast.h"
#include "quire/ops/math/rms_norm_kernel.h"
#include "quire/tensor/dims.h"

namespace quire {
namespace {

void check_arguments(const Tensor& x_ND, const Tensor& weight_D, double epsilon) {
  QUIRE_CHECK(x_ND.dtype() == DType::kF32 || x_ND.dtype() == DType::kF64, "x_ND is ",
              to_string(x_ND.dtype()), ", expected f32 or f64");
  QUIRE_CHECK(weight_D.dtype() == x_ND.dtype(), "weight_D is ", to_string(weight_D.dtype()),
              ", expected ", to_string(x_ND.dtype()), ", the dtype of x_ND");
  QUIRE_CHECK(std::isfinite(epsilon) && epsilon >= 0, "epsilon is ", epsilon,
              ", expected a finite number of at least 0");
}

}  // namespace

Tensor rms_norm(const Tensor& x_ND, const Tensor& weight_D, double epsilon) {
  const Dims dims = QUIRE_DIMS(x_ND, weight_D);
  check_arguments(x_ND, weight_D, epsilon);
  const Tensor x = x_ND.contiguous_copy(), weight = weight_D.contiguous_copy();
  Tensor out = Tensor::empty({dims['N'], dims['D']}, x_ND.dtype(), x_ND.device());
  if (x_ND.dtype() == DType::kF64) {
    kernel::rms_norm_f64_cpu({.out_ND = out.mutable_data<double>(),
                              .x_ND = x.data<double>(),
                              .weight_D = weight.data<double>(),
                              .N = dims['N'],
                              .D = dims['D'],
                              .epsilon = epsilon});
    return out;
  }
  kernel::rms_norm_cpu({.out_ND = out.mutable_data<float>(),
                        .x_ND = x.data<float>(),
                        .weight_D = weight.data<float>(),
                        .N = dims['N'],
                        .D = dims['D'],
                        .epsilon = epsilon});
  return out;
}

RmsNormGradients rms_norm_backward(const Tensor& dout_ND, const Tensor& x_ND,
                                   const Tensor& weight_D, double epsilon) {
  const Dims dims = QUIRE_DIMS(dout_ND, x_ND, weight_D);
  check_arguments(x_ND, weight_D, epsilon);
  check_same_dtype("rms_norm_backward", "dout_ND", dout_ND, "x_ND", x_ND);
  const Tensor dout = dout_ND.contiguous_copy(), x = x_ND.contiguous_copy(),
               weight = weight_D.contiguous_copy();
  RmsNormGradients out{Tensor::empty(x_ND.shape(), x_ND.dtype(), x_ND.device()),
                       Tensor::empty(weight_D.shape(), x_ND.dtype(), x_ND.device())};
  Tensor scale_N = Tensor::empty({dims['N']}, DType::kF64, x_ND.device());
  kernel::rms_norm_backward_cpu({.dtype = x_ND.dtype(),
                                 .dx_ND = out.dx_ND.mutable_data<void>(),
                                 .dweight_D = out.dweight_D.mutable_data<void>(),
                                 .scale_N = scale_N.mutable_data<double>(),
                                 .dout_ND = dout.data<void>(),
                                 .x_ND = x.data<void>(),
                                 .weight_D = weight.data<void>(),
                                 .N = dims['N'],
                                 .D = dims['D'],
                                 .epsilon = epsilon});
  return out;
}

}  // namespace quire

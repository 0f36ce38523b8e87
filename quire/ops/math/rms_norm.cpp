#include "quire/ops/math/rms_norm.h"

#include <cmath>

#include "quire/base/error.h"
#include "quire/ops/math/rms_norm_kernel.h"
#include "quire/tensor/dims.h"

namespace quire {

Tensor rms_norm(const Tensor& x_ND, const Tensor& weight_D, double epsilon) {
  const Dims dims = QUIRE_DIMS(x_ND, weight_D);
  QUIRE_CHECK(x_ND.dtype() == DType::kF32, "x_ND is ", to_string(x_ND.dtype()), ", expected f32");
  QUIRE_CHECK(weight_D.dtype() == DType::kF32, "weight_D is ", to_string(weight_D.dtype()),
              ", expected f32");
  QUIRE_CHECK(std::isfinite(epsilon) && epsilon >= 0, "epsilon is ", epsilon,
              ", expected a finite number of at least 0");
  const Tensor x = x_ND.contiguous_copy(), weight = weight_D.contiguous_copy();
  Tensor out = Tensor::empty({dims['N'], dims['D']}, DType::kF32, x_ND.device());
  kernel::rms_norm_cpu({.out_ND = out.mutable_data<float>(),
                        .x_ND = x.data<float>(),
                        .weight_D = weight.data<float>(),
                        .N = dims['N'],
                        .D = dims['D'],
                        .epsilon = epsilon});
  return out;
}

}  // namespace quire

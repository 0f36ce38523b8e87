#include "quire/ops/attention/hadamard.h"

#include "quire/base/error.h"
#include "quire/ops/attention/hadamard_kernel.h"

namespace quire {

Tensor hadamard(const Tensor& x) {
  QUIRE_CHECK(x.rank() > 0, "hadamard turns rows; x has rank 0");
  QUIRE_CHECK(x.dtype() == DType::kF32 || x.dtype() == DType::kBF16 || x.dtype() == DType::kF16,
              "x is ", to_string(x.dtype()), "; hadamard takes f32, bf16 and f16");
  const Tensor plain = (x.dtype() == DType::kF32 ? x : x.to(DType::kF32)).contiguous_copy();
  Tensor out = Tensor::empty(plain.shape(), DType::kF32);
  const std::int64_t width = plain.size(-1);
  if (out.elements() == 0) return out;
  kernel::hadamard_cpu(
      {plain.data<float>(), out.mutable_data<float>(), out.elements() / width, width});
  return out;
}

}  // namespace quire

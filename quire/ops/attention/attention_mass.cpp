#include "quire/ops/attention/attention_mass.h"

#include "quire/base/error.h"
#include "quire/ops/attention/attention_check.h"
#include "quire/ops/attention/attention_kernel.h"
#include "quire/ops/attention/attention_mass_kernel.h"
#include "quire/tensor/dims.h"

namespace quire {

Tensor attention_mass(const Tensor& q_NHK, const Tensor& start_J, const KvView& kv,
                      const AttentionSpec& spec, const Tensor& lse_NH, MassOf of) {
  const Dims dims = QUIRE_DIMS(q_NHK, start_J, lse_NH);
  const Tensor start = start_J.contiguous_copy();
  const AttentionSpec plain = checked_attention(q_NHK, start, kv, spec);
  const DType dtype = kv.dtype == DType::kF64 ? DType::kF64 : DType::kF32;
  QUIRE_CHECK(lse_NH.dtype() == dtype, "lse_NH is ", to_string(lse_NH.dtype()),
              "; attention() returned it as ", to_string(dtype));
  const Tensor lse = lse_NH.contiguous_copy(), q = queries_for(kv, q_NHK);
  Tensor mass_PZG = Tensor::zeros({kv.P, kv.Z, kv.G}, dtype);
  const std::int64_t B = dims['J'] - 1, N = dims['N'], H = dims['H'];
  if (dtype == DType::kF64) {
    kernel::attention_mass_f64_cpu(
        {q.data<double>(), start.data<std::int32_t>(), kv, plain, nullptr, nullptr, B, N, H},
        of == MassOf::kLargest, lse.data<double>(), mass_PZG.mutable_data<double>());
    return mass_PZG;
  }
  kernel::attention_mass_cpu({q.data<float>(), start.data<std::int32_t>(), kv, plain,
                              lse.data<float>(), mass_PZG.mutable_data<float>(), B, N, H,
                              of == MassOf::kLargest});
  return mass_PZG;
}

}  // namespace quire

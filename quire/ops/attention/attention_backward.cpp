#include "quire/ops/attention/attention_backward.h"

#include "quire/base/error.h"
#include "quire/ops/attention/attention_backward_kernel.h"
#include "quire/ops/attention/attention_check.h"
#include "quire/ops/attention/hadamard.h"
#include "quire/ops/attention/kv_format.h"
#include "quire/tensor/dims.h"

namespace quire {
namespace {

/// Sums over heads and rows that have no place in the results, as the kernels want them.
struct Sums {
  Tensor dbias_parts, dslope_NH;
  std::int64_t bias_floats = 0;  // of one part
};

void check_gradients(const AttentionGradients& gradients, const KvView& kv,
                     const AttentionSpec& spec) {
  const bool rounded = size_of(kv.dtype) < 2;
  QUIRE_CHECK(!rounded || (gradients.dk_pages == nullptr && gradients.dv_pages == nullptr),
              "gradients.dk_pages and dv_pages: ", to_string(kv.dtype),
              " pages have none; only queries do");
  QUIRE_CHECK(gradients.dbias == nullptr || kv.bias != nullptr,
              "gradients.dbias is given, but kv.bias is not");
  QUIRE_CHECK(gradients.dslope_H == nullptr || spec.slope_H != nullptr,
              "gradients.dslope_H is given, but spec.slope_H is not");
  QUIRE_CHECK(gradients.dsink_H == nullptr || spec.sink_H != nullptr,
              "gradients.dsink_H is given, but spec.sink_H is not");
}

/// `x` is in the dtype of q, or f32 where q is bf16 or f16.
void check_dtype(const Tensor& x, const char* name, DType q) {
  QUIRE_CHECK(x.dtype() == q || (x.dtype() == DType::kF32 && q != DType::kF64), name, " is ",
              to_string(x.dtype()), ", but q_NHK is ", to_string(q));
}

void check_row_numbers(const Tensor& x, const char* name, DType q) {
  const DType wanted = q == DType::kF64 ? DType::kF64 : DType::kF32;
  QUIRE_CHECK(x.dtype() == wanted, name, " is ", to_string(x.dtype()), "; it must be ",
              to_string(wanted));
}

Sums make_sums(const AttentionGradients& gradients, const KvView& kv, std::int64_t N,
               std::int64_t H, DType dtype) {
  Sums sums;
  // One bias for several kv heads: each owner has a part of its own.
  sums.bias_floats = kv.P * kv.Z * kv.bias_heads;
  const bool parts =
      gradients.dbias != nullptr && (dtype == DType::kF64 || (kv.bias_heads == 1 && kv.G > 1));
  const std::int64_t count = kv.bias_heads == 1 ? kv.G : 1;
  if (parts) sums.dbias_parts = Tensor::zeros({count, sums.bias_floats}, dtype);
  if (gradients.dslope_H != nullptr) sums.dslope_NH = Tensor::zeros({N, H}, dtype);
  return sums;
}

template <class T>
T* data_or_null(Tensor& x) {
  return x.elements() == 0 ? nullptr : x.mutable_data<T>();
}
template <class T>
const T* data_or_null(const Tensor& x) {
  return x.elements() == 0 ? nullptr : x.data<T>();
}

/// Slopes, sinks and biases, once the kernels have run.
template <class T>
void add_sums(const AttentionGradients& gradients, const AttentionSpec& spec, const Sums& sums,
              const Tensor& lse, const Tensor& delta) {
  kernel::add_sums_over_rows_cpu<T>(
      {data_or_null<T>(lse), data_or_null<T>(delta), data_or_null<T>(sums.dslope_NH), spec.sink_H,
       gradients.dslope_H, gradients.dsink_H, lse.size(0), lse.size(1)});
  const Tensor& parts = sums.dbias_parts;
  if (parts.elements() > 0)
    kernel::add_parts_cpu<T>(parts.data<T>(), sums.bias_floats, parts.size(0), gradients.dbias);
}

void backward_f64(AttentionGradients& gradients, const Tensor& dout, const Tensor& dlse,
                  const Tensor& q, const Tensor& start, const KvView& kv, const AttentionSpec& spec,
                  const AttentionResult& result) {
  const std::int64_t N = q.size(0), H = q.size(1);
  const Tensor lse = result.lse_NH.contiguous_copy(), out = result.out_NHU.contiguous_copy();
  Tensor delta = Tensor::empty({N, H}, DType::kF64);
  kernel::row_statistics_f64_cpu(dout.data<double>(), out.data<double>(),
                                 data_or_null<double>(dlse), N * H, kv.U,
                                 delta.mutable_data<double>());
  Sums sums = make_sums(gradients, kv, N, H, DType::kF64);
  gradients.dq_NHK = Tensor::zeros({N, H, kv.K}, DType::kF64);
  kernel::attention_backward_f64_cpu(
      {q.data<double>(), dout.data<double>(), lse.data<double>(), delta.data<double>(),
       start.data<std::int32_t>(), kv, spec, gradients.dq_NHK.mutable_data<double>(),
       static_cast<double*>(gradients.dk_pages), static_cast<double*>(gradients.dv_pages),
       data_or_null<double>(sums.dbias_parts), data_or_null<double>(sums.dslope_NH),
       sums.dbias_parts.elements() > 0 && sums.dbias_parts.size(0) > 1 ? sums.bias_floats : 0,
       start.size(0) - 1, N, H});
  add_sums<double>(gradients, spec, sums, lse, delta);
}

void backward_f32(AttentionGradients& gradients, const Tensor& dout, const Tensor& dlse,
                  const Tensor& q, const Tensor& start, const KvView& kv, const AttentionSpec& spec,
                  const AttentionResult& result) {
  const std::int64_t N = q.size(0), H = q.size(1);
  const Tensor lse = result.lse_NH.contiguous_copy(), out = result.out_NHU.contiguous_copy();
  Tensor base = Tensor::empty({N, H}, DType::kF32), delta = Tensor::empty({N, H}, DType::kF32);
  kernel::row_statistics_cpu(
      {dout.data<void>() == nullptr ? nullptr : static_cast<const std::byte*>(dout.data<void>()),
       static_cast<const std::byte*>(out.data<void>()), dout.dtype(), out.dtype(),
       lse.data<float>(), data_or_null<float>(dlse), base.mutable_data<float>(),
       delta.mutable_data<float>(), N * H, kv.U});
  Sums sums = make_sums(gradients, kv, N, H, DType::kF32);
  const bool parts = sums.dbias_parts.elements() > 0;
  gradients.dq_NHK = Tensor::zeros({N, H, kv.K}, DType::kF32);
  kernel::attention_backward_cpu(
      {static_cast<const std::byte*>(q.data<void>()),
       static_cast<const std::byte*>(dout.data<void>()), q.dtype(), dout.dtype(),
       base.data<float>(), delta.data<float>(), start.data<std::int32_t>(), kv, spec,
       gradients.dq_NHK.mutable_data<float>(), static_cast<float*>(gradients.dk_pages),
       static_cast<float*>(gradients.dv_pages),
       parts ? sums.dbias_parts.mutable_data<float>() : gradients.dbias,
       parts ? sums.bias_floats : 0, data_or_null<float>(sums.dslope_NH), start.size(0) - 1, N, H});
  if (q.dtype() != DType::kF32) gradients.dq_NHK = gradients.dq_NHK.to(q.dtype());
  add_sums<float>(gradients, spec, sums, lse, delta);
}

}  // namespace

void attention_backward(AttentionGradients& gradients, const Tensor& dout_NHU,
                        const Tensor& dlse_NH, const Tensor& q_NHK, const Tensor& start_J,
                        const KvView& kv, const AttentionSpec& spec,
                        const AttentionResult& result) {
  const Tensor& out_NHU = result.out_NHU;
  const Tensor& lse_NH = result.lse_NH;
  const Dims dims = QUIRE_DIMS(q_NHK, dout_NHU, out_NHU, lse_NH);
  const Tensor start = start_J.contiguous_copy();
  const AttentionSpec plain = checked_attention(q_NHK, start, kv, spec);
  QUIRE_CHECK(dims['U'] == kv.U, "dout_NHU: U is ", dims['U'], ", but kv has U = ", kv.U);
  check_gradients(gradients, kv, spec);
  check_dtype(dout_NHU, "dout_NHU", q_NHK.dtype());
  check_dtype(out_NHU, "result.out_NHU", q_NHK.dtype());
  check_row_numbers(lse_NH, "result.lse_NH", q_NHK.dtype());
  const bool has_dlse = dlse_NH.elements() > 0;
  if (has_dlse) {
    QUIRE_CHECK(dlse_NH.shape() == lse_NH.shape(), "dlse_NH is ", to_string(dlse_NH.shape()),
                ", but result.lse_NH is ", to_string(lse_NH.shape()));
    check_row_numbers(dlse_NH, "dlse_NH", q_NHK.dtype());
  }
  const bool f64 = q_NHK.dtype() == DType::kF64, turned = turns_keys(kv.dtype);
  (f64 ? backward_f64 : backward_f32)(
      gradients, dout_NHU.contiguous_copy(), has_dlse ? dlse_NH.contiguous_copy() : Tensor(),
      turned ? queries_for(kv, q_NHK) : q_NHK.contiguous_copy(), start, kv, plain, result);
  if (!turned) return;
  const Tensor dq = hadamard(gradients.dq_NHK);
  gradients.dq_NHK = q_NHK.dtype() == DType::kF32 ? dq : dq.to(q_NHK.dtype());
}

}  // namespace quire

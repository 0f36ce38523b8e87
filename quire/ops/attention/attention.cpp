#include "quire/ops/attention/attention.h"

#include "quire/base/error.h"
#include "quire/base/isa.h"
#include "quire/ops/attention/attention_check.h"
#include "quire/ops/attention/attention_kernel.h"
#include "quire/ops/attention/shared_attention.h"
#include "quire/ops/attention/shared_attention_kernel.h"
#include "quire/tensor/dims.h"

namespace quire {
namespace {

bool rounds_queries(const Tensor& q_NHK, const KvView& kv, const AttentionSpec& spec) {
  return spec.query_rounding == QueryRounding::kLikePages && kv.dtype == DType::kBF16 &&
         q_NHK.dtype() == DType::kF32;
}

kernel::Products products_of(const Tensor& q_NHK, const KvView& kv) {
  if (q_NHK.dtype() != DType::kBF16 || kv.dtype != DType::kBF16) return kernel::Products::kF32;
  return has_bf16_dot() ? kernel::Products::kBf16Dots : kernel::Products::kBf16Widened;
}

template <class T>
AttentionResult merged(const AttentionResult& a, const AttentionResult& b, DType dtype) {
  const auto plain = [&](const Tensor& x) {
    return (x.dtype() == dtype ? x : x.to(dtype)).contiguous_copy();
  };
  const Tensor out_a = plain(a.out_NHU), out_b = plain(b.out_NHU), lse_a = plain(a.lse_NH),
               lse_b = plain(b.lse_NH);
  AttentionResult result{Tensor::empty(out_a.shape(), dtype), Tensor::empty(lse_a.shape(), dtype)};
  kernel::merge_attention_cpu(kernel::MergeAttention<T>{
      out_a.data<T>(), lse_a.data<T>(), out_b.data<T>(), lse_b.data<T>(),
      result.out_NHU.template mutable_data<T>(), result.lse_NH.template mutable_data<T>(),
      lse_a.elements(), out_a.size(2)});
  return result;
}

AttentionResult attention_f64(const Tensor& q_NHK, const Tensor& start, const KvView& kv,
                              const AttentionSpec& spec) {
  const Tensor q = queries_for(kv, q_NHK);
  const std::int64_t N = q.size(0), H = q.size(1);
  AttentionResult result{Tensor::empty({N, H, kv.U}, DType::kF64),
                         Tensor::empty({N, H}, DType::kF64)};
  kernel::attention_f64_cpu({q.data<double>(), start.data<std::int32_t>(), kv, spec,
                             result.out_NHU.mutable_data<double>(),
                             result.lse_NH.mutable_data<double>(), start.size(0) - 1, N, H});
  return result;
}

}  // namespace

AttentionResult attention(const Tensor& q_NHK, const Tensor& start_J, const KvView& kv,
                          const AttentionSpec& spec) {
  const Dims dims = QUIRE_DIMS(q_NHK, start_J);
  const Tensor start = start_J.contiguous_copy();
  const AttentionSpec plain = checked_attention(q_NHK, start, kv, spec);
  if (kv.dtype == DType::kF64) return attention_f64(q_NHK, start, kv, plain);

  const Tensor met = rounds_queries(q_NHK, kv, spec) ? q_NHK.to(DType::kBF16) : q_NHK;
  const Tensor q = queries_for(kv, met);
  AttentionResult result{Tensor::empty({dims['N'], dims['H'], kv.U}, DType::kF32),
                         Tensor::empty({dims['N'], dims['H']}, DType::kF32)};
  const kernel::AttentionForward args{q.data<float>(),
                                      start.data<std::int32_t>(),
                                      kv,
                                      plain,
                                      result.out_NHU.mutable_data<float>(),
                                      result.lse_NH.mutable_data<float>(),
                                      dims['J'] - 1,
                                      dims['N'],
                                      dims['H'],
                                      products_of(met, kv)};
  const std::int64_t shared = shared_keys(start, kv, plain);
  shared > 0 ? kernel::shared_attention_cpu(args, shared) : kernel::attention_cpu(args);
  if (q_NHK.dtype() != DType::kF32) result.out_NHU = result.out_NHU.to(q_NHK.dtype());
  return result;
}

AttentionResult merge_attention(const AttentionResult& a, const AttentionResult& b) {
  const Tensor& out_NHU = a.out_NHU;
  const Tensor& lse_NH = a.lse_NH;
  (void)QUIRE_DIMS(out_NHU, lse_NH);
  QUIRE_CHECK(b.out_NHU.shape() == out_NHU.shape() && b.lse_NH.shape() == lse_NH.shape(),
              "merge_attention: a is ", to_string(out_NHU.shape()), ", but b is ",
              to_string(b.out_NHU.shape()));
  QUIRE_CHECK(out_NHU.dtype() == b.out_NHU.dtype(), "merge_attention: a is ",
              to_string(out_NHU.dtype()), ", but b is ", to_string(b.out_NHU.dtype()));
  QUIRE_CHECK(lse_NH.dtype() == b.lse_NH.dtype(), "merge_attention: lse of a is ",
              to_string(lse_NH.dtype()), ", but of b ", to_string(b.lse_NH.dtype()));
  if (lse_NH.dtype() == DType::kF64) return merged<double>(a, b, DType::kF64);
  AttentionResult result = merged<float>(a, b, DType::kF32);
  if (out_NHU.dtype() != DType::kF32) result.out_NHU = result.out_NHU.to(out_NHU.dtype());
  return result;
}

}  // namespace quire

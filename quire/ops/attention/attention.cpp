#include "quire/ops/attention/attention.h"

#include "quire/base/error.h"
#include "quire/ops/attention/attention_check.h"
#include "quire/ops/attention/attention_kernel.h"
#include "quire/tensor/dims.h"

namespace quire {
namespace {

Tensor in_f32(const Tensor& x) { return x.dtype() == DType::kF32 ? x : x.to(DType::kF32); }

}  // namespace

AttentionResult attention(const Tensor& q_NHK, const Tensor& start_J, const KvView& kv,
                          const AttentionSpec& spec) {
  const Dims dims = QUIRE_DIMS(q_NHK, start_J);
  const Tensor start = start_J.contiguous_copy();
  const AttentionSpec plain = checked_attention(q_NHK, start, kv, spec);

  const Tensor q = in_f32(q_NHK).contiguous_copy();
  AttentionResult result{Tensor::empty({dims['N'], dims['H'], kv.U}, DType::kF32),
                         Tensor::empty({dims['N'], dims['H']}, DType::kF32)};
  kernel::attention_cpu({q.data<float>(), start.data<std::int32_t>(), kv, plain,
                         result.out_NHU.mutable_data<float>(), result.lse_NH.mutable_data<float>(),
                         dims['J'] - 1, dims['N'], dims['H']});
  if (q_NHK.dtype() != DType::kF32) result.out_NHU = result.out_NHU.to(q_NHK.dtype());
  return result;
}

AttentionResult merge_attention(const AttentionResult& a, const AttentionResult& b) {
  const Tensor& out_NHU = a.out_NHU;
  const Tensor& lse_NH = a.lse_NH;
  const Dims dims = QUIRE_DIMS(out_NHU, lse_NH);
  QUIRE_CHECK(b.out_NHU.shape() == out_NHU.shape() && b.lse_NH.shape() == lse_NH.shape(),
              "merge_attention: a is ", to_string(out_NHU.shape()), ", but b is ",
              to_string(b.out_NHU.shape()));
  QUIRE_CHECK(out_NHU.dtype() == b.out_NHU.dtype(), "merge_attention: a is ",
              to_string(out_NHU.dtype()), ", but b is ", to_string(b.out_NHU.dtype()));
  const Tensor out_a = in_f32(out_NHU).contiguous_copy(),
               out_b = in_f32(b.out_NHU).contiguous_copy();
  const Tensor lse_a = lse_NH.contiguous_copy(), lse_b = b.lse_NH.contiguous_copy();
  AttentionResult result{Tensor::empty(out_NHU.shape(), DType::kF32),
                         Tensor::empty(lse_NH.shape(), DType::kF32)};
  kernel::merge_attention_cpu({out_a.data<float>(), lse_a.data<float>(), out_b.data<float>(),
                               lse_b.data<float>(), result.out_NHU.mutable_data<float>(),
                               result.lse_NH.mutable_data<float>(), dims['N'] * dims['H'],
                               dims['U']});
  if (out_NHU.dtype() != DType::kF32) result.out_NHU = result.out_NHU.to(out_NHU.dtype());
  return result;
}

}  // namespace quire

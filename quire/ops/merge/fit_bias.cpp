#include "quire/ops/merge/fit_bias.h"

#include <cmath>

#include "quire/base/error.h"
#include "quire/ops/attention/attention_check.h"
#include "quire/ops/merge/fit_bias_kernel.h"
#include "quire/ops/merge/sequence_view.h"
#include "quire/tensor/dims.h"

namespace quire {
namespace {

void check_f32(const Tensor& x, const char* name) {
  QUIRE_CHECK(x.dtype() == DType::kF32, name, " is ", to_string(x.dtype()), ", expected f32");
}

void check_groups(const Tensor& group_GS, const Shape& shape, std::int64_t M) {
  QUIRE_CHECK(group_GS.dtype() == DType::kI64 && group_GS.shape() == shape, "group_GS is ",
              to_string(group_GS.dtype()), " ", to_string(group_GS.shape()), ", expected i64 ",
              to_string(shape));
  const auto* group = group_GS.data<std::int64_t>();
  for (std::int64_t i = 0; i < group_GS.elements(); ++i)
    QUIRE_CHECK(group[i] >= -1 && group[i] < M, "group_GS has ", group[i], " at ", i,
                "; it may be -1 to ", M - 1);
}

}  // namespace

Tensor fit_bias(const Tensor& q_NHK, const Tensor& lse_NH, const KvView& kv, std::int64_t b,
                const Tensor& group_GS, const MergedKeys& merged, double scale) {
  const Tensor &k_GMK = merged.k_GMK, &count_GM = merged.count_GM;
  const Dims dims = QUIRE_DIMS(q_NHK, lse_NH, k_GMK, count_GM);
  const std::int64_t S = checked_keys(kv, b), H = dims['H'], G = dims['G'], M = dims['M'];
  check_f32(q_NHK, "q_NHK");
  check_f32(lse_NH, "lse_NH");
  check_f32(k_GMK, "merged.k_GMK");
  check_f32(count_GM, "merged.count_GM");
  QUIRE_CHECK(kv.dtype != DType::kF64, "kv.dtype is f64; a bias is fitted in f32");
  QUIRE_CHECK(kv.G == G && kv.K == dims['K'] && G > 0 && H % G == 0, "kv has G = ", kv.G,
              " and K = ", kv.K, ", but q_NHK is ", to_string(q_NHK.shape()), " and k_GMK ",
              to_string(k_GMK.shape()));
  QUIRE_CHECK(kv.bias == nullptr || kv.bias_heads == 1 || kv.bias_heads == G, "kv.bias_heads is ",
              kv.bias_heads, "; it may be 1 or G = ", G);
  QUIRE_CHECK(scale >= 0 && std::isfinite(scale), "scale is ", scale);
  const Tensor group = group_GS.contiguous_copy();
  check_groups(group, {G, S}, M);
  const Tensor q = q_NHK.contiguous_copy(), lse = lse_NH.contiguous_copy(),
               count = count_GM.contiguous_copy();
  const SequenceView merged_keys(k_GMK);
  const std::int64_t rows = dims['N'] * (H / G);
  Tensor reach_GRM = Tensor::empty({G, rows, M}, DType::kF32),
         most_GM = Tensor::empty({G, M}, DType::kF32),
         square_GM = Tensor::empty({G, M}, DType::kF32),
         mass_GS = Tensor::empty({G, S}, DType::kF32), bias_GM = Tensor::empty({G, M}, DType::kF32);
  const double plain = scale == 0 ? 1 / std::sqrt(static_cast<double>(kv.K)) : scale;
  kernel::fit_bias_cpu({q.data<float>(), lse.data<float>(), kv, merged_keys.kv(), b, S, M, H, rows,
                        group.data<std::int64_t>(), count.data<float>(), static_cast<float>(plain),
                        reach_GRM.mutable_data<float>(), most_GM.mutable_data<float>(),
                        square_GM.mutable_data<float>(), mass_GS.mutable_data<float>(),
                        bias_GM.mutable_data<float>()});
  return bias_GM;
}

}  // namespace quire

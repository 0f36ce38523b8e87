#include "quire/ops/search/page_bounds.h"

#include <cmath>

#include "quire/base/error.h"
#include "quire/ops/attention/attention_check.h"
#include "quire/ops/search/page_bounds_kernel.h"
#include "quire/tensor/dims.h"

namespace quire {

PageBounds page_bounds(const KvView& kv, std::int64_t b, std::int64_t page_tokens) {
  const std::int64_t S = checked_keys(kv, b);
  QUIRE_CHECK(kv.dtype != DType::kF64, "kv.dtype is f64; bounds are f32");
  QUIRE_CHECK(page_tokens >= 1 && page_tokens <= (std::int64_t{1} << 20), "page_tokens is ",
              page_tokens, "; it may be 1 to 2^20");
  const std::int64_t P = (S + page_tokens - 1) / page_tokens;
  PageBounds out{Tensor::empty({kv.G, P, kv.K}, DType::kF32),
                 Tensor::empty({kv.G, P, kv.K}, DType::kF32)};
  kernel::page_bounds_cpu({kv, b, S, P, page_tokens, out.least_GPK.mutable_data<float>(),
                           out.most_GPK.mutable_data<float>()});
  return out;
}

Tensor page_bound_scores(const Tensor& q_NHK, const PageBounds& bounds, double scale) {
  const Tensor &least_GPK = bounds.least_GPK, &most_GPK = bounds.most_GPK;
  const Dims dims = QUIRE_DIMS(q_NHK, least_GPK, most_GPK);
  QUIRE_CHECK(q_NHK.dtype() == DType::kF32 && least_GPK.dtype() == DType::kF32 &&
                  most_GPK.dtype() == DType::kF32,
              "q_NHK is ", to_string(q_NHK.dtype()), ", bounds are ", to_string(least_GPK.dtype()),
              " and ", to_string(most_GPK.dtype()), "; expected f32");
  QUIRE_CHECK(dims['G'] > 0 && dims['H'] % dims['G'] == 0, "q_NHK has H = ", dims['H'],
              ", which is not a multiple of G = ", dims['G']);
  QUIRE_CHECK(scale >= 0 && std::isfinite(scale), "scale is ", scale);
  const Tensor q = q_NHK.contiguous_copy(), least = least_GPK.contiguous_copy(),
               most = most_GPK.contiguous_copy();
  Tensor out = Tensor::empty({dims['N'], dims['H'], dims['P']}, DType::kF32);
  const double plain = scale == 0 ? 1 / std::sqrt(static_cast<double>(dims['K'])) : scale;
  kernel::page_bound_scores_cpu({q.data<float>(), least.data<float>(), most.data<float>(),
                                 out.mutable_data<float>(), dims['N'], dims['H'], dims['G'],
                                 dims['P'], dims['K'], static_cast<float>(plain)});
  return out;
}

}  // namespace quire

#include <algorithm>
#include <iterator>

#include "quire/cache/policy_cache_impl.h"

namespace quire::cache {

/// A group's first heads, then its second ones, and so on: each is attention with one query head to
/// a kv head.
Tensor PolicyCache::Impl::over_selected_by_heads(PolicyLayer& layer, const Tensor& q_NHK) {
  const std::int64_t N = q_NHK.size(0), H = layer.spec.H, G = layer.spec.G, R = H / G,
                     K = layer.spec.K, U = layer.spec.U;
  Tensor out_NHU = Tensor::empty({N, H, U}, DType::kF32),
         lse_NH = Tensor::empty({N, H}, DType::kF32);
  std::vector<Positions> together(static_cast<std::size_t>(G));
  const float* sink_H = layer.spec.attention.sink_H;
  for (std::int64_t r = 0; r < R; ++r) {
    Tensor q_NGK = Tensor::empty({N, G, K}, DType::kF32);
    for (std::int64_t i = 0; i < N * G; ++i)
      std::copy_n(q_NHK.data<float>() + (i * R + r) * K, K, q_NGK.mutable_data<float>() + i * K);
    std::vector<float> sink_G;
    for (std::int64_t g = 0; sink_H != nullptr && g < G; ++g) sink_G.push_back(sink_H[g * R + r]);
    const Selected selected = select(layer, q_NGK);
    QUIRE_CHECK(selected.bias_NGS.empty() && selected.stand_ins_NG.empty(), "the policy ",
                policy->name(), " selects for each query head; it has no bias and no stand-ins");
    const AttentionResult part = attend_rows(layer, q_NGK, layer.length - N, selected.at_NG,
                                             nullptr, sink_H == nullptr ? nullptr : sink_G.data());
    for (std::int64_t i = 0; i < N * G; ++i) {
      std::copy_n(part.out_NHU.data<float>() + i * U, U,
                  out_NHU.mutable_data<float>() + (i * R + r) * U);
      lse_NH.mutable_data<float>()[i * R + r] = part.lse_NH.data<float>()[i];
    }
    for (std::int64_t g = 0; g < G; ++g) {
      const Positions& one = selected.at_NG[static_cast<std::size_t>((N - 1) * G + g)];
      Positions& all = together[static_cast<std::size_t>(g)];
      const Positions before = std::move(all);
      all.clear();
      std::set_union(before.begin(), before.end(), one.begin(), one.end(), std::back_inserter(all));
    }
  }
  std::int64_t keys = 0;
  for (const Positions& at : together)
    keys += static_cast<std::int64_t>(at.size()) + layer.length - context;
  layer.selected = std::move(together);
  layer.bytes_read = keys * per_head(layer) + policy->index_bytes_read(index_of(layer));
  if (measure == Measure::kMass) layer.mass = mass_of(lse_NH, over_all(layer, q_NHK).lse_NH);
  return out_NHU;
}

}  // namespace quire::cache

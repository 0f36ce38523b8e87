#include "quire/nn/heterogeneous.h"

#include <algorithm>
#include <utility>

#include "quire/base/error.h"
#include "quire/tensor/dims.h"

namespace quire::nn {

HeterogeneousAttention::HeterogeneousAttention(std::int64_t hidden_size, std::int64_t layer_idx,
                                               Rng& rng, const HeterogeneousSpec& spec, Sees sees)
    : HeterogeneousAttention(1, 1, attention_init<Tensor>(hidden_size, 1, 1, rng), layer_idx, spec,
                             sees) {}

HeterogeneousAttention::HeterogeneousAttention(std::int64_t heads, std::int64_t kv_heads,
                                               AttentionWeights<Tensor> weights,
                                               std::int64_t layer_idx,
                                               const HeterogeneousSpec& spec, Sees sees)
    : GroupedQueryAttention<Tensor>(heads, kv_heads, std::move(weights)),
      layer_idx_(layer_idx),
      spec_(spec),
      sees_(sees) {}

void HeterogeneousAttention::make_caches(std::int64_t B, std::int64_t K) {
  cache::LayerSpec layer{heads(), kv_heads(), K, K, {}};
  layer.attention.alignment = Alignment::kBottomRight;
  layer.attention.window_right = sees_ == Sees::kCausal ? 0 : kUnlimited;
  for (std::int64_t b = 0; b < B; ++b)
    caches_.push_back(std::make_unique<cache::TieredCache>(std::vector{layer}, spec_.cache,
                                                           spec_.capacity, spec_.kv));
}

Tensor HeterogeneousAttention::operator()(const Tensor& x_BTD) {
  QUIRE_CHECK(x_BTD.dtype() == DType::kF32, "x_BTD is ", to_string(x_BTD.dtype()),
              ", expected f32");
  const Dims dims = QUIRE_DIMS(x_BTD);
  const std::int64_t B = dims['B'], T = dims['T'], K = dims['D'] / heads(), G = kv_heads();
  QUIRE_CHECK(!built_ || sees_ == Sees::kCausal || T <= 1, "x_BTD has ", T,
              " tokens; after build() queries see no later keys, so that they come one by one");
  const Projected p = project(x_BTD);
  if (caches_.empty()) make_caches(B, K);
  QUIRE_CHECK(static_cast<std::size_t>(B) == caches_.size(), "x_BTD has ", B,
              " sequences, but the layer remembers ", caches_.size());
  Tensor out_NHK = Tensor::empty({B * T, heads(), K}, DType::kF32);
  for (std::int64_t b = 0; b < B; ++b) {
    cache::TieredCache& cache = *caches_[static_cast<std::size_t>(b)];
    cache.append(0, p.k_BTGK.slice(0, b, b + 1).view({T, G, K}),
                 p.v_BTGK.slice(0, b, b + 1).view({T, G, K}));
    const Tensor rows = cache.attend(0, p.q_NHK.slice(0, b * T, (b + 1) * T));
    cache.advance(T);
    std::copy_n(rows.data<float>(), rows.elements(),
                out_NHK.mutable_data<float>() + b * rows.elements());
  }
  return output(out_NHK, B, T);
}

void HeterogeneousAttention::build() {
  for (const auto& cache : caches_) cache->build();
  built_ = true;
}

void HeterogeneousAttention::offload() {
  for (const auto& cache : caches_) cache->offload();
}

cache::TieredCache& HeterogeneousAttention::cache(std::int64_t b) {
  QUIRE_CHECK(b >= 0 && static_cast<std::size_t>(b) < caches_.size(), "sequence ", b, " of ",
              caches_.size());
  return *caches_[static_cast<std::size_t>(b)];
}

cache::SearchResult HeterogeneousAttention::search(std::int64_t b, const Tensor& q_HK,
                                                   std::int64_t top_k) {
  return cache(b).search(0, q_HK, top_k);
}

}  // namespace quire::nn

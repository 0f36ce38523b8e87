#pragma once

#include <cstdint>
#include <memory>
#include <vector>

#include "quire/cache/tiered.h"
#include "quire/nn/attention.h"

namespace quire::nn {

/// What a HeterogeneousAttention remembers with.
struct HeterogeneousSpec {
  cache::TieredSpec cache = {};
  std::int64_t capacity = 65536;  // tokens of each sequence; memory is committed as they come
  DType kv = DType::kF32;
};

/// Self-attention whose keys and values are in the zones of a TieredCache, one for each sequence of
/// the batch: sink · context · staging · recent. Before build() it is GroupedQueryAttention with a
/// cache, bit for bit; after it each query attends exactly to what it finds in the context and to
/// the other zones, and the rest is estimated. With a budget that covers the context it stays bit
/// for bit the same.
///
/// x_BTD  f32; B is that of the first call. After build() a query sees the keys up to its own
///        position, whatever `sees` says: with kAll tokens must then come one by one.
///
/// Throws  ArgumentError on shapes and dtypes, and as the cache does.
/// Source  the notebook's HeterogeneousAttention, finished; RetroInfer 2025.
class HeterogeneousAttention : public GroupedQueryAttention<Tensor> {
 public:
  /// One head over the whole width, as SelfAttention.
  HeterogeneousAttention(std::int64_t hidden_size, std::int64_t layer_idx, Rng& rng,
                         const HeterogeneousSpec& spec = {}, Sees sees = Sees::kAll);
  /// With grouped queries, and weights that are there.
  HeterogeneousAttention(std::int64_t heads, std::int64_t kv_heads,
                         AttentionWeights<Tensor> weights, std::int64_t layer_idx,
                         const HeterogeneousSpec& spec = {}, Sees sees = Sees::kAll);

  Tensor operator()(const Tensor& x_BTD);

  /// Indexes what was read; moves the context to its arena. Of all sequences.
  void build();
  void offload();
  /// What the queries of sequence b, q_HK as projected (f32), find in the context: at most top_k
  /// tokens for each kv head.
  cache::SearchResult search(std::int64_t b, const Tensor& q_HK, std::int64_t top_k);
  /// The queries of tokens, [B · T, H, K].
  Tensor queries(const Tensor& x_BTD) const { return project(x_BTD).q_NHK; }

  /// Throws ArgumentError for a sequence that is not there; before the first call none is.
  cache::TieredCache& cache(std::int64_t b);
  std::int64_t layer_idx() const { return layer_idx_; }

 private:
  void make_caches(std::int64_t B, std::int64_t K);

  std::int64_t layer_idx_;
  HeterogeneousSpec spec_;
  Sees sees_;
  std::vector<std::unique_ptr<cache::TieredCache>> caches_;  // one layer each
  bool built_ = false;
};

}  // namespace quire::nn

#pragma once

#include <cstdint>

#include "quire/cache/kv_cache.h"
#include "quire/ops/math/rope.h"
#include "quire/ops/matmul/matmul.h"

namespace quire::nn {

/// The weights of an attention layer with grouped queries: q is (H·K) × D, k is (G·K) × D, v is
/// (G·U) × D, output is D × (H·U).
struct CachedAttention {
  Weight q, k, v, output;
};

/// Self-attention of N new tokens over everything in the cache: projects, turns queries and keys to
/// their positions, appends keys and values to layer `layer` of the cache, attends, projects back.
///
/// x_ND     f32; row n stands at cache.positions(N)[n]
/// returns  f32 [N, D]
///
/// Throws  ArgumentError as its ops and the cache do; the cache may then hold keys of an unfinished
/// step, which the next append replaces.
Tensor cached_attention(const Tensor& x_ND, const CachedAttention& weights, const RopeTable& rope,
                        std::int64_t G, cache::KvCache& cache, std::int64_t layer, MatmulMode mode);

}  // namespace quire::nn

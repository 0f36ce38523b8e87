#pragma once

#include <cstdint>

#include "quire/ops/attention/attention_kernel.h"

namespace quire::kernel {

/// attention_cpu() of sequences whose first `shared` keys are the same, as shared_keys() tells it.
void shared_attention_cpu(const AttentionForward& args, std::int64_t shared);

/// A chunk of keys of kv head `g` that all of `rows` queries see whole.
struct SharedChunk {
  const AttentionForward& args;  // one sequence
  std::int64_t g, chunk;
  std::int64_t next_g, next_chunk;  // worth asking for meanwhile; next_g < 0: nothing
  const float* queries;             // rows of query_floats() each, as shared_queries() makes them
  std::int64_t rows;
  SoftmaxState state;  // is overwritten
  float* scratch;      // of shared_scratch() floats
};

/// Floats that shared_chunk() needs: a tile of keys, the values of the chunk, and for each row
/// (whole sixteens of them) scores, weights of the chunk, 16 maxima or sums, factors, a maximum.
constexpr std::int64_t shared_scratch(std::int64_t rows, std::int64_t K, std::int64_t width) {
  return kTileKeys * K + kChunkKeys * ((width + 63) / 64 * 64) +
         (rows + 15) / 16 * 16 * (kTileKeys + kChunkKeys + 16 + kChunkKeys / kTileKeys + 1) + 16;
}
/// Floats of a query as shared_chunk() wants it: never more than K + 16.
constexpr std::int64_t query_floats(Products products, std::int64_t K) {
  return products == Products::kBf16Dots ? (K + 31) / 32 * 16 : K;
}

/// Whether shared_chunk() knows these products, and scores that are scale · q·k and nothing else.
QUIRE_DECLARE_KERNEL(bool, has_shared_chunk, const AttentionForward& args)
/// Rows of K floats to rows of query_floats().
QUIRE_DECLARE_KERNEL(void, shared_queries, const AttentionForward& args, const float* rows,
                     std::int64_t count, float* to)
/// What attention_chunk() gives, in the same bits.
QUIRE_DECLARE_KERNEL(void, shared_chunk, const SharedChunk& args)

}  // namespace quire::kernel

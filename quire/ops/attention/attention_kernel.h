#pragma once

#include <cstddef>
#include <cstdint>

#include "quire/base/isa.h"
#include "quire/ops/attention/attention_spec.h"
#include "quire/ops/attention/kv_view.h"

namespace quire::kernel {

inline constexpr int kTileKeys = 64;  // one test of the running maximum per tile
inline constexpr std::int64_t kChunkKeys =
    256;  // a partial result covers these key positions, wherever they lie

/// How queries meet keys, and weights values (quire/ops/attention/attention_products.h).
enum class Products {
  kF32,          // widened to f32, one after another
  kBf16Widened,  // bf16 with bf16, weights too, in the order of the processor's dot products
  kBf16Dots      // by those dot products: has_bf16_dot()
};

/// attention() with everything checked and made plain.
struct AttentionForward {
  const float* q_NHK;  // contiguous
  const std::int32_t* start_J;
  KvView kv;
  AttentionSpec spec;  // scale resolved, alignment chosen
  float* out_NHU;
  float* lse_NH;
  std::int64_t B, N, H;
  Products products = Products::kF32;  // others want bf16 keys, and queries that are bf16 numbers
};
void attention_cpu(const AttentionForward& args);

/// The same in f64, row by row; kv is f64 too.
struct AttentionForward64 {
  const double* q_NHK;  // contiguous
  const std::int32_t* start_J;
  KvView kv;
  AttentionSpec spec;  // scale resolved, alignment chosen
  double* out_NHU;
  double* lse_NH;
  std::int64_t B, N, H;
};
void attention_f64_cpu(const AttentionForward64& args);
/// Adds to mass_PZG what each key received, given lse_NH; with `largest` it becomes the most that
/// a query gave it, if that is more. `args` needs neither out nor lse.
void attention_mass_f64_cpu(const AttentionForward64& args, bool largest, const double* lse_NH,
                            double* mass_PZG);

/// out and lse of `b` merged into those of `a`: rows × U. T is float or double.
template <class T>
struct MergeAttention {
  const T *out_a, *lse_a, *out_b, *lse_b;
  T *out, *lse;
  std::int64_t rows, U;
};
void merge_attention_cpu(const MergeAttention<float>& args);
void merge_attention_cpu(const MergeAttention<double>& args);

/// Running softmax of R rows: maximum, sum, and the unnormalised output with rows of `width` floats
/// (U rounded up to 16).
struct SoftmaxState {
  float* max_R;
  float* sum_R;
  float* out_RU;
};

/// Queries [first, last) of sequence `b` with the heads of kv head `g` are rows (query − first) ·
/// H/G + head; they lie at `q`, row after row, as pack_queries() makes them. Keys before position
/// `until` are worth asking for ahead.
struct AttentionRows {
  std::int64_t b, g, first, last;
  const float* q;
  std::int64_t until;
};

/// Floats of a packed query: never more than K + 16.
constexpr std::int64_t query_floats(Products products, std::int64_t K) {
  return products == Products::kBf16Dots ? (K + 31) / 32 * 16 : K;
}
/// `count` queries of K floats to rows of query_floats(): as they are, or as pairs of bf16.
QUIRE_DECLARE_KERNEL(void, pack_queries, const AttentionForward& args, const float* queries,
                     std::int64_t count, float* to)

/// Floats that attention_heads needs beside the states: a tile of keys or values, scores, and what
/// belongs to a key.
constexpr std::int64_t heads_scratch(std::int64_t rows, std::int64_t K, std::int64_t width) {
  const std::int64_t value_width = (width + 63) / 64 * 64;
  return kTileKeys * ((K > value_width ? K : value_width) + rows + 3) + rows + 16;
}
/// The softmax over the keys of one chunk (positions [chunk · 256, chunk · 256 + 256)), from an
/// empty state, for several kv heads of one sequence with the same few queries, tile by tile: the
/// keys of all heads lie near each other in a page, so that their addresses are translated once.
/// False when no row sees a key.
QUIRE_DECLARE_KERNEL(bool, attention_heads, const AttentionForward& args, const AttentionRows* rows,
                     const SoftmaxState* states, std::int64_t heads, std::int64_t chunk,
                     float* scratch)

/// A chunk of keys for many rows of one kv head.
struct AttentionChunk {
  const AttentionForward& args;
  const AttentionRows& rows;
  std::int64_t chunk;
  std::int64_t next_g, next_chunk;  // what comes after it; next_g < 0: nothing
  const SoftmaxState& into;
  bool fresh;      // `into` holds nothing yet: it is overwritten, else merged into
  float* scratch;  // of chunk_scratch() floats
};
/// Floats that attention_chunk needs: a tile of keys, 64 columns of the chunk's values, and for
/// each row (whole sixteens of them and one more) its scores, 16 maxima or sums, and 9 numbers.
constexpr std::int64_t chunk_scratch(std::int64_t rows, std::int64_t K) {
  return kTileKeys * (K + 3) + kChunkKeys * 64 + (rows / 16 * 16 + 32) * (kChunkKeys + 16 + 9) + 16;
}
/// attention_heads() and merge_states(), in the same bits.
QUIRE_DECLARE_KERNEL(void, attention_chunk, const AttentionChunk& args)

/// Merges the state of a later chunk into `into`, which may be empty (max −inf): exact there.
QUIRE_DECLARE_KERNEL(void, merge_states, const SoftmaxState& into, const SoftmaxState& later,
                     std::int64_t rows, std::int64_t width)
/// out[0, U) = state / sum of one row; zeros when the row saw no key.
QUIRE_DECLARE_KERNEL(void, finish_row, const float* state_U, float sum, std::int64_t U, float* out)

}  // namespace quire::kernel

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
/// H/G + head, and their queries lie at `q`, row after row. Keys before position `until` are worth
/// asking for ahead.
struct AttentionRows {
  std::int64_t b, g, first, last;
  const float* q;
  std::int64_t until;
};

/// Floats that attention_chunk needs beside the state: a tile of keys or values, scores, what
/// belongs to a key, and queries as pairs. attention_heads has those of `heads`.
constexpr std::int64_t attention_scratch(std::int64_t rows, std::int64_t K, std::int64_t width,
                                         std::int64_t heads = 1) {
  const std::int64_t value_width = (width + 63) / 64 * 64;
  return kTileKeys * ((K > value_width ? K : value_width) + rows + 4) +
         rows * (heads * (K / 2 + 16) + 1) + 64;
}

/// The softmax over the keys of one chunk (positions [chunk · 256, chunk · 256 + 256)), from an
/// empty state. False when no row sees a key.
QUIRE_DECLARE_KERNEL(bool, attention_chunk, const AttentionForward& args, const AttentionRows& rows,
                     std::int64_t chunk, const SoftmaxState& state, float* scratch)
/// The same for several kv heads of one sequence and the same queries, tile by tile: the keys of
/// all heads lie near each other in a page, so that their addresses are translated once.
QUIRE_DECLARE_KERNEL(bool, attention_heads, const AttentionForward& args, const AttentionRows* rows,
                     const SoftmaxState* states, std::int64_t heads, std::int64_t chunk,
                     float* scratch)
/// Merges the state of a later chunk into `into`, which may be empty (max −inf): exact there.
QUIRE_DECLARE_KERNEL(void, merge_states, const SoftmaxState& into, const SoftmaxState& later,
                     std::int64_t rows, std::int64_t width)
/// out[0, U) = state / sum of one row; zeros when the row saw no key.
QUIRE_DECLARE_KERNEL(void, finish_row, const float* state_U, float sum, std::int64_t U, float* out)

}  // namespace quire::kernel

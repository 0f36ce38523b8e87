#pragma once

#include <cstddef>
#include <cstdint>

#include "quire/base/isa.h"
#include "quire/ops/attention/attention_spec.h"
#include "quire/ops/attention/kv_view.h"

namespace quire::kernel {

inline constexpr int kUnitKeys = 64;
/// Rows (a query with a head) of one step: as many as keep their tiles in the second-level cache.
inline constexpr std::int64_t kStepRows = 96;

/// attention_backward() with everything checked and made plain.
struct AttentionBackward {
  const std::byte *q_NHK, *dout_NHU;  // contiguous
  DType q_dtype, dout_dtype;          // f32, bf16 or f16
  const float* base_NH;               // lse; +inf where it is −inf, so that every weight is 0
  const float* delta_NH;              // D
  const std::int32_t* start_J;
  KvView kv;
  AttentionSpec spec;          // scale resolved, alignment chosen
  float* dq_NHK;               // added to
  float *dk_pages, *dv_pages;  // added to; null: not wanted
  float* dbias;                // added to, or null; the part of kv head g begins dbias_part · g
  std::int64_t dbias_part;     // floats further: 0 where heads do not share a bias
  float* dslope_NH;            // added to: the share of each row; or null
  std::int64_t B, N, H;
};

/// `lanes` keys of one page, from `slot` on.
struct KeyRun {
  std::int64_t page, slot;
  int lanes;
};

/// Lanes [0, lanes) of a unit are the keys of sequence b from its slot `slot` on.
struct Viewer {
  std::int64_t b, slot;
  int lanes;
  std::int32_t unit;
};

/// Up to 64 keys that follow one another, run by run, in every sequence that sees them: what is
/// read, and what receives gradients, at once.
struct KeyUnit {
  const KeyRun* runs;
  const Viewer* viewers;
  int run_count, viewer_count, lanes;
};

/// Which of the products a pass forms: gradients of keys and values, of queries, or both.
enum class Pass : std::uint8_t { kBoth, kKeys, kQueries };

/// Queries [first, last) of every sequence.
struct QueryRange {
  std::int64_t first, last;
};

constexpr std::int64_t padded(std::int64_t n) { return (n + 15) / 16 * 16; }

/// Floats that backward_unit needs.
constexpr std::int64_t backward_scratch(std::int64_t K, std::int64_t U, std::int64_t group) {
  const std::int64_t rows = group > kStepRows ? group : kStepRows;
  const std::int64_t width = padded(K) > padded(U) ? padded(K) : padded(U);
  return kUnitKeys * (2 * padded(K) + 2 * padded(U) + width) +
         rows * (padded(K) + padded(U) + 3 * kUnitKeys) + kUnitKeys * (group + 2);
}

/// All that queries of `queries` owe to the keys of one unit, for the heads of kv head g. `scratch`
/// begins at a multiple of 64 bytes.
QUIRE_DECLARE_KERNEL(void, backward_unit, const AttentionBackward& args, std::int64_t g,
                     const KeyUnit& unit, QueryRange queries, Pass pass, float* scratch)

/// Σ dout · out of one row of U elements; each row as it is stored.
struct RowPair {
  const std::byte *a, *b;
  DType a_dtype, b_dtype;
};
QUIRE_DECLARE_KERNEL(float, row_product, const RowPair& rows, std::int64_t U)

void attention_backward_cpu(const AttentionBackward& args);

/// base and delta of every row (see above), from lse, dlse (may be null) and dout · out.
struct RowStatistics {
  const std::byte *dout_NHU, *out_NHU;
  DType dout_dtype, out_dtype;  // f32, bf16 or f16
  const float *lse_NH, *dlse_NH;
  float *base_NH, *delta_NH;
  std::int64_t rows, U;
};
void row_statistics_cpu(const RowStatistics& args);
void row_statistics_f64_cpu(const double* dout_NHU, const double* out_NHU, const double* dlse_NH,
                            std::int64_t rows, std::int64_t U, double* delta_NH);

/// Gradients of slopes and sinks; null leaves one out.
template <class T>
struct SumsOverRows {
  const T *lse_NH, *delta_NH, *dslope_NH;
  const float* sink_H;
  float *dslope_H, *dsink_H;
  std::int64_t N, H;
};
template <class T>
void add_sums_over_rows_cpu(const SumsOverRows<T>& args);

/// out[i] += Σ_p parts[p · part + i].
template <class T>
void add_parts_cpu(const T* parts, std::int64_t part, std::int64_t count, float* out);

/// The same in f64: loops over rows and keys, each kv head by its owner.
struct AttentionBackward64 {
  const double *q_NHK, *dout_NHU;
  const double *lse_NH, *delta_NH;
  const std::int32_t* start_J;
  KvView kv;
  AttentionSpec spec;
  double *dq_NHK, *dk_pages, *dv_pages;
  double *dbias, *dslope_NH;  // dbias: parts as above
  std::int64_t dbias_part;
  std::int64_t B, N, H;
};
void attention_backward_f64_cpu(const AttentionBackward64& args);

}  // namespace quire::kernel

// The most similar even neighbour of 64 keys at once, compiled once per instruction set: the keys
// are the columns of a register tile, the even keys around them its rows.

#include "quire/base/simd.h"
#include "quire/ops/merge/key_tile.h"
#include "quire/ops/merge/match_neighbours_kernel.h"
#include "quire/ops/tile/gemm_tile.h"

namespace quire::kernel::QUIRE_ISA_NS {
namespace {

constexpr int kSpan = 64;

struct Found {
  F32 value[4], slot[4];  // slots are counted from the span's own first one
};

/// The lanes whose position is within the window of an even key; they follow one another.
struct LaneRange {
  int begin, end;
};

/// One even key: its row of length 1, where it stands, and the lanes that see it.
struct Row {
  const float* unit;
  float slot;
  LaneRange lanes;
};

template <int T>
QUIRE_INLINE void compare(Found& found, const Row* even, std::int64_t K, const float* columns) {
  Array<const float*, T> rows;
  for (int t = 0; t < T; ++t) rows[t] = even[t].unit;
  Accumulators<T, 4> acc;
  clear<T, 4>(acc);
  packed_product<T, 4, 0>(acc, rows, columns, K, Ahead{});
#pragma GCC unroll 6
  for (int t = 0; t < T; ++t) {
    const F32 slot = set1(even[t].slot);
#pragma GCC unroll 4
    for (int p = 0; p < 4; ++p) {
      const int begin = even[t].lanes.begin - 16 * p, end = even[t].lanes.end - 16 * p;
      const F32 score = keep_lanes(acc[t][p],
                                   begin < 0    ? 0
                                   : begin > 16 ? 16
                                                : begin,
                                   end < 0    ? 0
                                   : end > 16 ? 16
                                              : end,
                                   set1(-__builtin_inff()));
      found.slot[p] = select_less(found.value[p], score, slot, found.slot[p]);
      found.value[p] = select_less(found.value[p], score, score, found.value[p]);
    }
  }
}

/// Divides a row by its length; false for a row of length 0 or that is not finite.
QUIRE_INLINE bool make_unit(float* row, const float* mean, std::int64_t K) {
  float square = 0;
  for (std::int64_t k = 0; k < K; ++k) {
    if (mean != nullptr) row[k] -= mean[k];
    square += row[k] * row[k];
  }
  if (!(square > 0.0f) || square > 3.0e38f) return false;
  const float length = __builtin_sqrtf(square);
  for (std::int64_t k = 0; k < K; ++k) row[k] /= length;
  return true;
}

struct Span {
  const MatchNeighbours& args;
  std::int64_t g, slot;
  int count;

  std::int64_t position(std::int64_t at) const {
    return args.position_GS == nullptr ? at : args.position_GS[g * args.S + at];
  }
  /// Positions ascend, so the range only moves on from one even key to the next.
  LaneRange lanes_near(std::int64_t at, LaneRange from) const {
    const std::int64_t here = position(at);
    while (from.begin < count && here - position(slot + from.begin) > args.window) ++from.begin;
    while (from.end < count && position(slot + from.end) - here <= args.window) ++from.end;
    return from;
  }
};

void compare_span(Found& found, const Span& span, std::int64_t from, float* rows,
                  const float* columns, LaneRange& lanes) {
  const MatchNeighbours& a = span.args;
  const std::int64_t K = a.kv.K;
  const int count = static_cast<int>(a.S - from < kSpan ? a.S - from : kSpan);
  load_key_rows(a.kv, {a.b, span.g, from, count}, rows);
  const float* mean = a.mean_GK == nullptr ? nullptr : a.mean_GK + span.g * K;
  Row even[kSpan / 2];
  int n = 0;
  for (int i = 0; i < count; i += 2) {
    lanes = span.lanes_near(from + i, lanes);
    const bool excluded = a.protected_GS != nullptr && a.protected_GS[span.g * a.S + from + i] != 0;
    if (excluded || lanes.begin >= lanes.end || !make_unit(rows + i * K, mean, K)) continue;
    even[n++] = {rows + i * K, static_cast<float>(from + i - span.slot), lanes};
  }
  int i = 0;
  for (; i + 6 <= n; i += 6) compare<6>(found, even + i, K, columns);
  for (; i < n; ++i) compare<1>(found, even + i, K, columns);
}

}  // namespace

void match_span(const MatchNeighbours& args, std::int64_t g, std::int64_t slot, int count,
                float* scratch) {
  const std::int64_t K = args.kv.K;
  float *columns = scratch, *rows = scratch + kSpan * K;
  load_key_columns(args.kv, {args.b, g, slot, count}, columns);
  Found found;
  F32 square[4];
  for (int p = 0; p < 4; ++p) {
    found.value[p] = set1(-__builtin_inff());
    found.slot[p] = square[p] = zero();
  }
  for (std::int64_t k = 0; k < K; ++k) {
    for (int p = 0; p < 4; ++p) {
      F32 x = load(columns + k * kPackedColumns + 16 * p);
      if (args.mean_GK != nullptr) {
        x = sub(x, set1(args.mean_GK[g * K + k]));
        store(columns + k * kPackedColumns + 16 * p, x);
      }
      square[p] = fma(x, x, square[p]);
    }
  }
  // Positions ascend at least as fast as slots: nothing further away can be within the window.
  const std::int64_t last = slot + count - 1;
  std::int64_t from = slot > args.window ? (slot - args.window) / kSpan * kSpan : 0;
  LaneRange lanes{0, 0};
  const Span span{args, g, slot, count};
  for (; from < args.S && from <= last + args.window; from += kSpan)
    compare_span(found, span, from, rows, columns, lanes);
  alignas(64) float value[kSpan], at[kSpan], length[kSpan];
  for (int p = 0; p < 4; ++p) {
    store(value + 16 * p, found.value[p]);
    store(at + 16 * p, found.slot[p]);
    store(length + 16 * p, sqrt(square[p]));
  }
  for (int i = 0; i < count; ++i) {
    const std::int64_t key = g * args.S + slot + i;
    const bool alone = i % 2 == 0 || value[i] == -__builtin_inff() || !(length[i] > 0.0f) ||
                       (args.protected_GS != nullptr && args.protected_GS[key] != 0);
    args.cosine_GS[key] = alone ? 1.0f : value[i] / length[i];
    args.partner_GS[key] = alone ? -1 : slot + static_cast<std::int64_t>(at[i]);
  }
}

}  // namespace quire::kernel::QUIRE_ISA_NS

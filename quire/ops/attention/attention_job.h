#pragma once

// What the kernels of few rows and of many share: rows of queries before one tile of keys.

#include "quire/base/simd.h"
#include "quire/ops/attention/attention_kernel.h"
#include "quire/ops/attention/attention_products.h"
#include "quire/ops/attention/attention_score.h"
#include "quire/ops/attention/attention_tile.h"
#include "quire/ops/attention/visible.h"
#include "quire/ops/tile/panel_product.h"

namespace quire::kernel::QUIRE_ISA_NS {

constexpr int kStrip = kRegisters < 32 ? 2 : 6;  // rows of a register tile: 6 × 4 accumulators

/// Rows of queries and the keys that they are computed with: what all tiles share.
struct Job {
  const AttentionForward& a;
  const AttentionRows& rows;
  std::int64_t group, count, width;
  KeyRange keys;             // positions of the sequence's keys
  std::int64_t T;            // queries of the sequence
  std::int64_t query_width;  // floats from a query to the next
  bool plain;                // scores are scale · q·k
  SoftmaxState state{};
  TileMemory memory{};
  float* scores = nullptr;   // [rows, 64]: scores, then weights
  float* rescale = nullptr;  // [rows]: what the earlier output is multiplied by

  // (A division of 32 bits takes half the time.)
  std::int64_t query_of_block(std::int64_t row) const {
    return static_cast<std::uint32_t>(row) / static_cast<std::uint32_t>(group);
  }
  const float* q(std::int64_t row) const { return rows.q + row * query_width; }
  ScoreRow row_at(std::int64_t row) const {
    const std::int64_t query = query_of_block(row), t = rows.first + query;
    return {
        rows.b, rows.g, rows.g * group + row - query * group, t, query_position(a.spec, keys, t, T),
        keys};
  }
  KeyRange seen(std::int64_t row) const {
    return visible(a.spec, keys, query_position(a.spec, keys, rows.first + query_of_block(row), T));
  }
  /// What of the 64 positions from `position` on is worth asking for.
  Next next(std::int64_t position) const {
    const std::int64_t end = seen(count - 1).end,
                       keys_left = (end < rows.until ? end : rows.until) - position;
    return {rows.g, position - keys.begin,
            position < keys.begin   ? 0
            : keys_left < kTileKeys ? keys_left
                                    : kTileKeys};
  }
};

/// What rows see of a tile. Most tiles are seen whole by all rows.
struct Sight {
  const Job& job;
  const Tile& tile;
  bool whole;

  Sight(const Job& j, const Tile& t, std::int64_t from_row)
      : job(j), tile(t), whole(sees_all(from_row, j.count - 1)) {}
  /// Rows are in the order of their queries: what the last sees from its begin on and the first up
  /// to its end, all see.
  bool sees_all(std::int64_t first, std::int64_t last) const {
    return job.seen(last).begin <= tile.position &&
           job.seen(first).end >= tile.position + kTileKeys;
  }
  LaneRange of(std::int64_t row) const {
    return whole ? LaneRange{0, kTileKeys} : lanes(job.seen(row), tile);
  }
};

/// Calls f with R rows at a time as a constant, from `row` to `count`.
template <class F>
QUIRE_INLINE void strips(std::int64_t row, std::int64_t count, F&& f) {
  for (; row + kStrip <= count; row += kStrip) f(row, Constant<kStrip>{});
  if constexpr (kStrip > 4) {
    if (row + 4 <= count) {
      f(row, Constant<4>{});
      row += 4;
    }
    if (row + 3 <= count) {
      f(row, Constant<3>{});
      row += 3;
    }
  }
  for (; row < count; ++row) f(row, Constant<1>{});
}

/// The first strip of rows in which one sees anything at or after position `begin`; rows before it
/// need not be computed.
inline std::int64_t first_row(const Job& job, std::int64_t begin) {
  std::int64_t row = 0;
  while (row < job.count && job.seen(row).end <= begin) row += job.group;
  return row / kStrip * kStrip;
}

inline Job open_job(const AttentionForward& a, const AttentionRows& rows) {
  const KvView& kv = a.kv;
  const std::int64_t group = a.H / kv.G, start = view_first(kv, rows.b, rows.g);
  const bool plain = a.spec.softcap == 0 && a.spec.slope_H == nullptr &&
                     a.spec.mask_TS == nullptr && a.spec.allow_TS == nullptr &&
                     kv.bias == nullptr && kv.k_scale_PZG == nullptr;
  return {a,
          rows,
          group,
          (rows.last - rows.first) * group,
          (kv.U + 15) / 16 * 16,
          {start, start + view_length(kv, rows.b, rows.g)},
          a.start_J[rows.b + 1] - a.start_J[rows.b],
          query_floats(a.products, kv.K),
          plain};
}

/// Scratch memory, taken piece by piece from its first whole line of the cache on: vectors that lie
/// across two lines cost twice.
class Scratch {
 public:
  explicit Scratch(float* memory)
      : at_(reinterpret_cast<float*>((reinterpret_cast<std::uintptr_t>(memory) + 63) / 64 * 64)) {}
  float* operator()(std::int64_t floats) {
    float* out = at_;
    at_ += floats;
    return out;
  }

 private:
  float* at_;
};

/// Whether a bias or a mask may hide keys that lie in a row's range.
inline bool may_mask(const AttentionForward& a) {
  return a.spec.mask_TS != nullptr || a.spec.allow_TS != nullptr || a.kv.bias != nullptr;
}

/// The part of the 64 positions from `position` on that any row of a job sees, as a tile whose keys
/// and values are yet to be found; no lanes: none.
inline Tile open_tile(const Job& job, std::int64_t position) {
  // Later queries see later keys, at both ends of their range.
  const std::int64_t start = job.keys.begin, first = job.seen(0).begin,
                     last = job.seen(job.count - 1).end;
  const std::int64_t begin = first > position ? first : position;
  const std::int64_t end = last < position + kTileKeys ? last : position + kTileKeys;
  Tile tile{};
  tile.position = position;
  if (begin >= end) return tile;
  tile.begin = static_cast<int>((start > position ? start : position) - position);
  tile.end = static_cast<int>(end - position);
  return tile;
}

/// Where a tile's keys and values lie.
inline void find_tile(const Job& job, const Tile& tile, TileRows& rows) {
  with_stored(job.a.kv.dtype, [&](auto load) {
    find_rows<decltype(load)>(job.a.kv, job.rows.b, job.rows.g, tile.position - job.keys.begin,
                              tile, rows);
  });
}

/// Gathers the keys in the form that the products want.
inline void fill_keys(const Job& job, Tile& tile, const TileRows& rows) {
  const KvView& kv = job.a.kv;
  const std::int64_t first_slot = tile.position - job.keys.begin;
  float* to = job.memory.tile;
  if (job.a.products == Products::kBf16Dots) {
    gather_key_pairs(kv, first_slot, tile, rows, to);
  } else {
    with_stored(kv.dtype,
                [&](auto load) { gather_keys<decltype(load)>(kv, first_slot, tile, rows, to); });
  }
  use_keys(tile, to);
  for (int p = 0; p < 4; ++p) tile.k_next[p] = nullptr;
}

/// Gathers columns [u, end) of the values; `u` is a multiple of 64.
inline void fill_values(const Job& job, Tile& tile, const TileRows& rows, std::int64_t u,
                        std::int64_t end, float* to) {
  if (job.a.products == Products::kBf16Dots) {
    tile.finite = gather_value_pairs(job.a.kv, tile, rows, u, end, to);
    return use_values(tile, to, kTileKeys / 2);
  }
  with_stored(job.a.kv.dtype, [&](auto load) {
    tile.finite = gather_values<decltype(load)>(job.a.kv, tile, rows, u, end, to);
  });
  use_values(tile, to, kTileKeys);
}

/// Calls f with the form in which numbers of that dtype are multiplied.
template <class F>
QUIRE_INLINE void with_form(Products products, DType dtype, F&& f) {
  if (products == Products::kF32)
    return with_load(dtype, [&](auto load) { f(Chain<decltype(load)>{}); });
  const bool gathered = dtype == DType::kF32;
  if constexpr (kHasBf16Dots) {
    if (products == Products::kBf16Dots) return gathered ? f(Dots{}) : f(DotsOfRows{});
  }
  return gathered ? f(Swapped<LoadF32>{}) : f(Swapped<LoadBF16>{});
}

/// Pieces of memory, all of the same size, that are asked for a few at a time while something else
/// is computed.
struct Ahead {
  const std::byte* at[kChunkKeys];
  std::int64_t bytes = 0;  // of a piece
  int next = 0, count = 0, step = 0;

  /// Asks for everything in so many calls of fetch().
  void spread(std::int64_t calls) {
    step = static_cast<int>((count + calls - 1) / (calls > 0 ? calls : 1));
  }
  [[gnu::always_inline]] void fetch() {
    for (const int to = next + step < count ? next + step : count; next < to; ++next)
      for (std::int64_t i = 0; i < bytes; i += 64) prefetch_far(at[next] + i);
  }
};

/// The keys of a tile; of 16 in a block each asks for a sixteenth of it.
inline void add_keys(Ahead& ahead, const KvView& kv, std::int64_t first_slot, const Tile& tile,
                     const TileRows& rows) {
  std::int64_t apart = 0;
  with_stored(kv.dtype, [&](auto load) {
    using Load = decltype(load);
    ahead.bytes = stored_bytes<Load>(kv.K);
    if (kv.k_layout == KLayout::kBlocks) apart = ahead.bytes - Load::kBytes;
  });
  for (int lane = tile.begin; lane < tile.end; ++lane)
    ahead.at[ahead.count++] = rows.k[lane] + (first_slot + lane) % 16 * apart;
}

/// Columns [u, end) of a tile's values.
inline void add_values(Ahead& ahead, const KvView& kv, std::int64_t u, std::int64_t end,
                       const Tile& tile, const TileRows& rows) {
  std::int64_t offset = 0;
  with_stored(kv.dtype, [&](auto load) {
    offset = stored_bytes<decltype(load)>(u);
    ahead.bytes = stored_bytes<decltype(load)>(end) - offset;
  });
  for (int lane = tile.begin; lane < tile.end; ++lane)
    ahead.at[ahead.count++] = rows.v[lane] + offset;
}

/// Merges the maxima and sums of rows [r, r + n), at most 16, of a later chunk into those before,
/// and stores what the outputs are to be multiplied by: exactly 1 and 0 where the later saw none.
inline void merge_sums16(const SoftmaxState& into, const SoftmaxState& later, std::int64_t r, int n,
                         float* old_factors, float* next_factors) {
  const F32 old = load_first(into.max_R + r, n), next = load_first(later.max_R + r, n);
  const F32 largest = max(old, next);
  alignas(64) float maxima[16];
  store(old_factors, exp(sub(old, largest)));
  store(next_factors, exp(sub(next, largest)));
  store(maxima, largest);
  for (int i = 0; i < n; ++i) {
    const float sum = later.sum_R[r + i];
    if (sum == 0.0f) {
      old_factors[i] = 1;
      next_factors[i] = 0;
      continue;
    }
    into.max_R[r + i] = maxima[i];
    into.sum_R[r + i] = into.sum_R[r + i] * old_factors[i] + sum * next_factors[i];
  }
}

}  // namespace quire::kernel::QUIRE_ISA_NS

#pragma once

// How scores and weighted sums are formed from a tile: what is multiplied with what, and in which
// order.
//
// Chain: one FMA per element, in the order of the elements.
// Swapped: bf16 with bf16. Of two neighbours the second goes first, and weights are rounded to
//   bf16: the order and the operands of the processor's dot products.
// Dots: the same with those dot products, from tiles of pairs; DotsOfRows: from rows of the cache.
//
// Swapped, Dots and DotsOfRows give the same bits (denormals aside, which Dots take for 0). A lone
// element at the end of a range is multiplied alone.

#include "quire/base/simd.h"
#include "quire/ops/attention/attention_tile.h"
#include "quire/ops/tile/panel_product.h"

namespace quire::kernel::QUIRE_ISA_NS {

/// What becomes of the weights before they meet the values.
enum class Weights { kAsTheyAre, kRounded, kPairs };

/// e^x of x <= 0, for weights that are rounded to bf16: half the multiplications of exp(), and a
/// relative error of at most (2 + |x|) · 2^-24. Exactly 1 at 0; exactly 0 below −87.3, −inf
/// included.
QUIRE_INLINE F32 exp_to_round(F32 x) {
  const F32 t = max(set1(-126.0f), mul(x, set1(1.44269504f)));  // in this order a NaN stays one
  const F32 n = round(t), r = sub(t, n);
  // The best polynomial of degree 5 for 2^r with the constant 1, r in [-1/2, 1/2]: 9.2e-8 off.
  F32 p = set1(1.326472731e-3f);
  p = fma(p, r, set1(9.671512764e-3f));
  p = fma(p, r, set1(5.550733744e-2f));
  p = fma(p, r, set1(0.2402224208f));
  p = fma(p, r, set1(0.6931469776f));
  return select_less(x, set1(-87.33654f), zero(), scale_by_power(fma(p, r, set1(1.0f)), n));
}

template <class Load>
struct Chain {
  static constexpr Weights kWeights = Weights::kAsTheyAre;
  static constexpr std::int64_t kColumnBytes = Load::kBytes;  // of one value in a row

  /// acc[r][p] += q[r][d] · the 16 keys at k[p] + d · step, for d in [0, n).
  template <int R, int P>
  QUIRE_INLINE void keys(Accumulators<R, P>& acc, const Array<const float*, R>& q,
                         const std::byte* const* k, std::int64_t step, std::int64_t n,
                         const std::byte* const* next) {
    panel_product<Load, R, P>(acc, q, k, step, n, next);
  }
  /// acc[r][p] += w[r][lane] · 16 values of that lane, for lanes [begin, end); lane 0's lie at v.
  template <int R, int P>
  QUIRE_INLINE void values(Accumulators<R, P>& acc, const Array<const float*, R>& w,
                           const std::byte* v, std::int64_t step, std::int64_t begin,
                           std::int64_t end, std::int64_t ahead) {
    panel_product<Load, R, P>(acc, w, v, 16 * Load::kBytes, step, begin, end, ahead);
  }
  QUIRE_INLINE std::int64_t row_offset(std::int64_t lane, std::int64_t step) { return lane * step; }
  QUIRE_INLINE float weight(const float* w, int lane) { return w[lane]; }
  /// The order of two neighbours.
  static constexpr int kFirst = 0;
  /// One lane alone.
  QUIRE_INLINE F32 one(F32 acc, const float* w, const std::byte* v, std::int64_t step, int lane) {
    return fma(Load::at(v + lane * step), set1(w[lane]), acc);
  }
};

template <class Load>
struct Swapped : Chain<Load> {
  static constexpr Weights kWeights = Weights::kRounded;
  static constexpr int kFirst = 1;

  template <int R, int P>
  QUIRE_INLINE void step(Accumulators<R, P>& acc, const Array<const float*, R>& x,
                         const Array<const std::byte*, P>& w, std::int64_t offset, std::int64_t d) {
    Array<F32, P> column;
#pragma GCC unroll 4
    for (int p = 0; p < P; ++p) column[p] = Load::at(w[p] + offset);
#pragma GCC unroll 6
    for (int r = 0; r < R; ++r) {
      const F32 xr = set1(x[r][d]);
#pragma GCC unroll 4
      for (int p = 0; p < P; ++p) acc[r][p] = fma(column[p], xr, acc[r][p]);
    }
  }
  template <int R, int P>
  QUIRE_INLINE void product(Accumulators<R, P>& acc, const Array<const float*, R>& x,
                            const Array<const std::byte*, P>& w, std::int64_t step_bytes,
                            std::int64_t begin, std::int64_t end,
                            const Array<const std::byte*, P>& next) {
    std::int64_t d = begin;
    if (d % 2 != 0 && d < end) {
      step<R, P>(acc, x, w, d * step_bytes, d);
      ++d;
    }
    for (; d + 2 <= end; d += 2) {
      step<R, P>(acc, x, w, (d + 1) * step_bytes, d + 1);
      step<R, P>(acc, x, w, d * step_bytes, d);
      if (next[0] == nullptr) continue;
      for (int p = 0; p < P; ++p) {
        prefetch_far(next[p] + d * step_bytes);
        prefetch_far(next[p] + (d + 1) * step_bytes);
      }
    }
    if (d < end) step<R, P>(acc, x, w, d * step_bytes, d);
  }
  template <int R, int P>
  QUIRE_INLINE void keys(Accumulators<R, P>& acc, const Array<const float*, R>& q,
                         const std::byte* const* k, std::int64_t step_bytes, std::int64_t n,
                         const std::byte* const* next) {
    Array<const std::byte*, P> at, behind;
    for (int p = 0; p < P; ++p) {
      at[p] = k[p];
      behind[p] = next == nullptr ? nullptr : next[p];
    }
    product<R, P>(acc, q, at, step_bytes, 0, n, behind);
  }
  template <int R, int P>
  QUIRE_INLINE void values(Accumulators<R, P>& acc, const Array<const float*, R>& w,
                           const std::byte* v, std::int64_t step_bytes, std::int64_t begin,
                           std::int64_t end, std::int64_t ahead) {
    Array<const std::byte*, P> at, behind;
    for (int p = 0; p < P; ++p) {
      at[p] = v + 16 * p * Load::kBytes;
      behind[p] = ahead == 0 ? nullptr : at[p] + ahead;
    }
    product<R, P>(acc, w, at, step_bytes, begin, end, behind);
  }
};

/// Pairs of a tile: each vector holds two neighbours.
struct PairsOfTile {
  static constexpr std::int64_t kRows = 1;  // steps that a pair takes in memory
  static constexpr std::int64_t kColumnBytes = 4;
  QUIRE_INLINE Pairs keys(const std::byte* p) { return load_pairs(p); }
  QUIRE_INLINE Pairs low(const std::byte* p, std::int64_t) { return low_of(load_pairs(p)); }
  QUIRE_INLINE Pairs high(const std::byte* p, std::int64_t) { return high_of(load_pairs(p)); }
  /// P vectors of values from p on.
  template <int P>
  QUIRE_INLINE void values(const std::byte* p, std::int64_t, Array<Pairs, P>& column) {
#pragma GCC unroll 4
    for (int i = 0; i < P; ++i) column[i] = load_pairs(p + 64 * i);
  }
};

/// Pairs of neighbours as the cache stores them: keys in blocks of 16, values in rows.
struct PairsOfRows {
  static constexpr std::int64_t kRows = 2;
  static constexpr std::int64_t kColumnBytes = 2;
  QUIRE_INLINE Pairs keys(const std::byte* p) { return pair_halves(p); }
  QUIRE_INLINE Pairs low(const std::byte* p, std::int64_t) { return low_of(pair_up(p, p)); }
  QUIRE_INLINE Pairs high(const std::byte* p, std::int64_t step) {
    return high_of(pair_up(p + step, p + step));
  }
  template <int P>
  QUIRE_INLINE void values(const std::byte* p, std::int64_t step, Array<Pairs, P>& column) {
    if constexpr (P == 1) {
      column[0] = pair_up(p, p + step);
    } else {
#pragma GCC unroll 2
      for (int i = 0; i < P; i += 2) pair_up32(p + 32 * i, p + step + 32 * i, column + i);
    }
  }
};

/// Queries and weights are pairs too: 32 bits in the place of a float.
template <class From>
struct DotsOf {
  static constexpr Weights kWeights = Weights::kPairs;
  static constexpr std::int64_t kColumnBytes = From::kColumnBytes;
  static constexpr int kFirst = 1;

  template <int R, int P>
  QUIRE_INLINE void step(Accumulators<R, P>& acc, const Array<const float*, R>& x,
                         const Array<Pairs, P>& column, std::int64_t i) {
#pragma GCC unroll 6
    for (int r = 0; r < R; ++r) {
      const Pairs xr = repeat_pair(x[r] + i);
#pragma GCC unroll 4
      for (int p = 0; p < P; ++p) acc[r][p] = dot2(acc[r][p], column[p], xr);
    }
  }
  /// (The last pair of an odd n is filled up with 0, in the tile and in the query.)
  template <int R, int P>
  QUIRE_INLINE void keys(Accumulators<R, P>& acc, const Array<const float*, R>& q,
                         const std::byte* const* k, std::int64_t step_bytes, std::int64_t n,
                         const std::byte* const* next) {
    const std::int64_t pair_bytes = From::kRows * step_bytes;
    for (std::int64_t i = 0; i < (n + 1) / 2; ++i) {
      Array<Pairs, P> column;
#pragma GCC unroll 4
      for (int p = 0; p < P; ++p) {
        column[p] = From::keys(k[p] + i * pair_bytes);
        if (next != nullptr) prefetch_far(next[p] + i * pair_bytes);
      }
      step<R, P>(acc, q, column, i);
    }
  }
  template <int R, int P>
  QUIRE_INLINE void values(Accumulators<R, P>& acc, const Array<const float*, R>& w,
                           const std::byte* v, std::int64_t step_bytes, std::int64_t begin,
                           std::int64_t end, std::int64_t ahead) {
    const std::int64_t pair_bytes = From::kRows * step_bytes;
    std::int64_t lane = begin;
    if (lane % 2 != 0 && lane < end) {
      lone<R, P>(acc, w, v, step_bytes, lane);
      ++lane;
    }
    for (; lane + 2 <= end; lane += 2) {
      const std::byte* at = v + lane / 2 * pair_bytes;
      Array<Pairs, P> column;
      From::template values<P>(at, step_bytes, column);
      if (ahead != 0) {
#pragma GCC unroll 4
        for (std::int64_t line = 0; line < 16 * P * kColumnBytes; line += 64) {
          prefetch_far(at + ahead + line);
          if (From::kRows == 2) prefetch_far(at + step_bytes + ahead + line);
        }
      }
      step<R, P>(acc, w, column, lane / 2);
    }
    if (lane < end) lone<R, P>(acc, w, v, step_bytes, lane);
  }
  /// A lane without its neighbour, whose values may be anything.
  template <int R, int P>
  QUIRE_INLINE void lone(Accumulators<R, P>& acc, const Array<const float*, R>& w,
                         const std::byte* v, std::int64_t step_bytes, std::int64_t lane) {
    Array<Pairs, P> column;
    for (int p = 0; p < P; ++p) {
      const std::byte* part = v + row_offset(lane, step_bytes) + 16 * p * kColumnBytes;
      column[p] = lane % 2 == 0 ? From::low(part, step_bytes) : From::high(part, step_bytes);
    }
    step<R, P>(acc, w, column, lane / 2);
  }
  QUIRE_INLINE std::int64_t row_offset(std::int64_t lane, std::int64_t step_bytes) {
    return lane / 2 * From::kRows * step_bytes;
  }
  QUIRE_INLINE float weight(const float* w, int lane) {
    std::uint32_t bits;
    __builtin_memcpy(&bits, w + lane / 2, 4);
    bits = lane % 2 == 0 ? bits << 16 : bits & 0xffff0000u;
    float out;
    __builtin_memcpy(&out, &bits, 4);
    return out;
  }
  QUIRE_INLINE F32 one(F32 acc, const float* w, const std::byte* v, std::int64_t step_bytes,
                       int lane) {
    const std::byte* at = v + row_offset(lane, step_bytes);
    const Pairs value = lane % 2 == 0 ? From::low(at, step_bytes) : From::high(at, step_bytes);
    return dot2(acc, value, repeat_pair(w + lane / 2));
  }
};

using Dots = DotsOf<PairsOfTile>;
using DotsOfRows = DotsOf<PairsOfRows>;

/// Rows of K floats that are bf16 to pairs of them, filled up with 0.
QUIRE_INLINE void pair_rows(const float* rows, std::int64_t count, std::int64_t K, float* to) {
  for (std::int64_t r = 0; r < count; ++r, rows += K) {
    for (std::int64_t k = 0; k < K; k += 32, to += 16) {
      const auto part = [&](std::int64_t from) {
        const std::int64_t n = K - from < 16 ? K - from : 16;
        return n == 16 ? load(rows + from)
               : n > 0 ? load_first(rows + from, static_cast<int>(n))
                       : zero();
      };
      store_pairs(to, round_pairs(part(k), part(k + 16)));
    }
  }
}

/// 16 keys that lie as rows into 16 columns of a tile of pairs with rows of 64. The 16 rows from
/// `next` on, if any, are asked for meanwhile.
QUIRE_INLINE void turn_pairs(const std::byte* const* rows, std::int64_t K, float* to,
                             const std::byte* next, std::int64_t row_bytes) {
  for (std::int64_t k = 0; k < K; k += 32, to += 16 * kTileKeys) {
    F32 x[16];
    ask_rows(next, row_bytes, 2 * k);
    const std::int64_t left = K - k < 32 ? K - k : 32;
    for (int i = 0; i < 16; ++i) {
      if (left == 32) {
        x[i] = LoadF32::at(rows[i] + 2 * k);
      } else {
        alignas(64) std::byte rest[64] = {};
        __builtin_memcpy(rest, rows[i] + 2 * k, static_cast<std::size_t>(2 * left));
        x[i] = LoadF32::at(rest);
      }
    }
    transpose(x);
    for (std::int64_t j = 0; j < (left + 1) / 2; ++j) store(to + j * kTileKeys, x[j]);
  }
}

/// The keys of a tile of bf16: elements (2j, 2j + 1) of lane i at j·64 + i.
QUIRE_INLINE void gather_key_pairs(const KvView& kv, std::int64_t first_slot, const Tile& tile,
                                   const TileRows& rows, float* to) {
  alignas(64) static constexpr std::byte kNothing[32] = {};
  const auto put = [&](std::int64_t k, int lane, const void* low, const void* high) {
    store_pairs(to + k / 2 * kTileKeys + lane, pair_up(low, high));
  };
  for (int lane = tile.begin / 16 * 16; lane < tile.end; lane += 16) {
    if (kv.k_layout == KLayout::kRows) {
      turn_pairs(rows.k + lane, kv.K, to + lane, tile.k_next[lane / 16], 2 * kv.k_strides.slot);
    } else if (first_slot % 16 == 0) {
      // A stored block is taken whole, also over the ends: those lanes are masked.
      const int in = lane < tile.begin ? tile.begin : lane;
      const std::byte* block = rows.k[in] - (in - lane) * 2;
      std::int64_t k = 0;
      for (; k + 2 <= kv.K; k += 2)
        store_pairs(to + k / 2 * kTileKeys + lane, pair_halves(block + 32 * k));
      if (k < kv.K) put(k, lane, block + 32 * k, kNothing);
    } else {
      for (std::int64_t k = 0; k < kv.K; k += 2) {
        alignas(64) std::byte pair[2][32] = {};
        for (int i = 0; i < 16; ++i) {
          for (std::int64_t j = 0; j < 2 && k + j < kv.K; ++j)
            __builtin_memcpy(pair[j] + 2 * i, rows.k[lane + i] + 32 * (k + j), 2);
        }
        put(k, lane, pair[0], pair[1]);
      }
    }
  }
}

/// Columns [begin, end) of the values of a tile of bf16, lanes (2j, 2j + 1) together: column u of
/// block u / 64 at j·64 + u % 64, counted from `begin`, a multiple of 64. Zeros in lanes without a
/// key. False when one is not finite.
QUIRE_INLINE bool gather_value_pairs(const KvView& kv, const Tile& tile, const TileRows& rows,
                                     std::int64_t begin, std::int64_t end, float* to) {
  alignas(64) static constexpr std::byte kNothing[64] = {};
  alignas(64) std::byte rest[2][64];
  F32 probe = zero();  // stays 0 while 0 · v is
  const std::int64_t last = end < kv.U ? end : kv.U;
  for (int lane = tile.begin / 2 * 2; lane < tile.end; lane += 2) {
    const bool has_low = lane >= tile.begin, has_high = lane + 1 < tile.end;
    for (std::int64_t u = begin; u < last; u += 32) {
      const std::byte *low = has_low ? rows.v[lane] + 2 * u : kNothing,
                      *high = has_high ? rows.v[lane + 1] + 2 * u : kNothing;
      if (last - u < 32) {
        const auto bytes = static_cast<std::size_t>(2 * (last - u));
        __builtin_memset(rest, 0, sizeof(rest));
        __builtin_memcpy(rest[0], low, bytes);
        __builtin_memcpy(rest[1], high, bytes);
        low = rest[0];
        high = rest[1];
      }
      Pairs both[2];
      pair_up32(low, high, both);
      for (int i = 0; i < 2; ++i) {
        if (last - u <= 16 * i) break;
        store_pairs(to + value_offset(lane / 2, u - begin + 16 * i, kTileKeys / 2), both[i]);
        probe = fma(widen_low(both[i]), zero(), fma(widen_high(both[i]), zero(), probe));
      }
    }
  }
  return all_finite(probe);
}

}  // namespace quire::kernel::QUIRE_ISA_NS

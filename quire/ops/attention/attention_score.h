#pragma once

// From the products of one query row with a tile's keys to its scores: scale, cap, slope, bias,
// masks. Forward, backward and attention_mass take the same path, so that their bits agree (but for
// products of bf16, which only forward adds in pairs).

#include "quire/base/simd.h"
#include "quire/ops/attention/attention_kernel.h"
#include "quire/ops/attention/attention_tile.h"
#include "quire/ops/attention/visible.h"

namespace quire::kernel::QUIRE_ISA_NS {

inline constexpr float kMinusInfinity = -__builtin_inff();
inline constexpr float kLargest = 0x1.fffffep127f;

/// The lanes of a tile that a range of positions covers.
struct LaneRange {
  int begin, end;
};

QUIRE_INLINE LaneRange lanes(KeyRange range, const Tile& tile) {
  std::int64_t begin = range.begin - tile.position, end = range.end - tile.position;
  if (begin < tile.begin) begin = tile.begin;
  if (end > tile.end) end = tile.end;
  return begin < end ? LaneRange{static_cast<int>(begin), static_cast<int>(end)} : LaneRange{0, 0};
}

/// A query with one head: query `t` of sequence `b` at `position`, head `h` of kv head `g`; the
/// keys of the sequence have the positions `keys`.
struct ScoreRow {
  std::int64_t b, g, h, t, position;
  KeyRange keys;
};

/// c · tanh(x / c); a series where 1 − 2/(e^2y + 1) would cancel.
QUIRE_INLINE F32 softcap(F32 x, float c) {
  const F32 y = div(x, set1(c));
  const F32 y2 = mul(y, y);
  F32 series = fma(y2, set1(-17.0f / 315.0f), set1(2.0f / 15.0f));
  series = fma(series, y2, set1(-1.0f / 3.0f));
  series = fma(mul(series, y2), y, y);
  const F32 wide = sub(set1(1.0f), div(set1(2.0f), add(exp(add(y, y)), set1(1.0f))));
  return mul(set1(c), select_less(abs(y), set1(0.15f), series, wide));
}

/// Adds a bias to a score; one of −inf masks the key, whatever the score is.
QUIRE_INLINE F32 add_bias(F32 x, F32 bias) {
  return select_less(bias, set1(-kLargest), set1(kMinusInfinity), add(x, bias));
}

QUIRE_INLINE int clip16(int lane) { return lane < 0 ? 0 : lane > 16 ? 16 : lane; }

/// Slope, bias of a query head, and masks, of the 16 keys from `lane` on; only those in `seen` are
/// read.
QUIRE_INLINE F32 add_row_options(F32 x, const AttentionSpec& spec, const KvView& kv,
                                 const Tile& tile, const ScoreRow& row, LaneRange seen, int lane) {
  const std::int64_t key = tile.position + lane, slot = key - row.keys.begin;
  const int begin = clip16(seen.begin - lane), end = clip16(seen.end - lane);
  if (begin >= end) return x;
  if (spec.slope_H != nullptr) {
    alignas(64) static constexpr float kIota[16] = {0, 1, 2,  3,  4,  5,  6,  7,
                                                    8, 9, 10, 11, 12, 13, 14, 15};
    const F32 distance = add(set1(static_cast<float>(key - row.position)), load(kIota));
    x = add(x, mul(set1(spec.slope_H[row.h]), distance));
  }
  alignas(64) float bias[16] = {};
  if (kv.bias != nullptr && kv.bias_heads > kv.G) {
    for (int i = begin; i < end; ++i) {
      const Place at = place_of(kv, row.b, row.g, slot + i);
      bias[i] = kv.bias[(at.page * kv.Z + at.slot) * kv.bias_heads + row.h];
    }
    x = add_bias(x, load(bias));
  }
  const std::int64_t mask = mask_row(spec, row.b, row.h, row.t) + slot;
  if (spec.mask_TS != nullptr) {
    if (begin == 0 && end == 16) {
      x = add_bias(x, load(spec.mask_TS + mask));
    } else {
      for (int i = begin; i < end; ++i) bias[i] = spec.mask_TS[mask + i];
      x = add_bias(x, load(bias));
    }
  }
  if (spec.allow_TS != nullptr) {
    alignas(16) std::uint8_t allow[16] = {};
    __builtin_memcpy(allow + begin, spec.allow_TS + mask + begin,
                     static_cast<std::size_t>(end - begin));
    x = select_less(zero(), load_u8(allow), x, set1(kMinusInfinity));
  }
  return x;
}

/// The scores of 64 keys from their products with the row's query; −inf where the row sees nothing.
QUIRE_INLINE void finish_scores(F32* x, const AttentionSpec& spec, const KvView& kv,
                                const Tile& tile, const ScoreRow& row, LaneRange seen) {
  const F32 scale = set1(static_cast<float>(spec.scale));
  const bool options = spec.slope_H != nullptr || spec.mask_TS != nullptr ||
                       spec.allow_TS != nullptr || (kv.bias != nullptr && kv.bias_heads > kv.G);
  for (int p = 0; p < 4; ++p) {
    if (tile.k_scale != nullptr) x[p] = mul(x[p], load(tile.k_scale + 16 * p));
    x[p] = mul(x[p], scale);
    if (spec.softcap > 0) x[p] = softcap(x[p], static_cast<float>(spec.softcap));
    if (tile.bias != nullptr) x[p] = add_bias(x[p], load(tile.bias + 16 * p));
    if (options) x[p] = add_row_options(x[p], spec, kv, tile, row, seen, 16 * p);
  }
  if (seen.begin == 0 && seen.end == kTileKeys) return;
  for (int p = 0; p < 4; ++p) {
    x[p] = keep_lanes(x[p], clip16(seen.begin - 16 * p), clip16(seen.end - 16 * p),
                      set1(kMinusInfinity));
  }
}

}  // namespace quire::kernel::QUIRE_ISA_NS

#pragma once

// 64 keys of one sequence and kv head, wherever a view keeps them, as floats: the side of a product
// whose columns are packed, or plain rows to add up.

#include "quire/base/simd.h"
#include "quire/ops/attention/attention_tile.h"
#include "quire/ops/attention/page_table.h"

namespace quire::kernel::QUIRE_ISA_NS {

/// Slots [slot, slot + count) of a sequence and kv head: slot a multiple of 16, count at most 64.
struct KeySpan {
  std::int64_t b, g, slot;
  int count;
};

QUIRE_INLINE Tile tile_of(const KeySpan& span) {
  Tile tile{};
  tile.begin = 0;
  tile.end = span.count;
  return tile;
}

/// The scale of a stored key or value: 1 unless it is i8.
QUIRE_INLINE float scale_of(const KvView& kv, const float* scale_PZG, const KeySpan& span,
                            int lane) {
  if (scale_PZG == nullptr) return 1.0f;
  const Place at = place_of(kv, span.b, span.g, span.slot + lane);
  return scale_PZG[(at.page * kv.Z + at.slot) * kv.G + span.g];
}

/// Element k of key i at k·64 + i, without scales. Lanes behind `count` hold anything finite or
/// not: no lane mixes with another.
QUIRE_INLINE void load_key_columns(const KvView& kv, const KeySpan& span, float* to) {
  with_load(kv.dtype, [&](auto load) {
    using Load = decltype(load);
    const Tile tile = tile_of(span);
    TileRows rows;
    find_rows<Load>(kv, span.b, span.g, span.slot, tile, rows);
    gather_keys<Load>(kv, span.slot, tile, rows, to);
  });
}

/// One key or value as `n` floats with its scale.
template <class Load>
QUIRE_INLINE void load_scaled_row(const std::byte* from, std::int64_t n, float scale, float* to) {
  widen_row<Load>(from, n, to);
  if (scale != 1.0f)
    for (std::int64_t i = 0; i < n; ++i) to[i] *= scale;
}

/// 16 keys of a block, in rows of K floats.
template <class Load>
QUIRE_INLINE void unblock_keys(const std::byte* block, std::int64_t K, int count, float* to) {
  for (std::int64_t k = 0; k < K; k += 16) {
    const std::int64_t n = K - k < 16 ? K - k : 16;
    F32 x[16];
    for (std::int64_t i = 0; i < 16; ++i)
      x[i] = i < n ? Load::at(block + (k + i) * 16 * Load::kBytes) : zero();
    transpose(x);
    for (int i = 0; i < count; ++i) store_first(to + i * K + k, x[i], static_cast<int>(n));
  }
}

/// The keys of a span as `count` rows of K floats.
QUIRE_INLINE void load_key_rows(const KvView& kv, const KeySpan& span, float* to) {
  with_load(kv.dtype, [&](auto load) {
    using Load = decltype(load);
    TileRows rows;
    find_rows<Load>(kv, span.b, span.g, span.slot, tile_of(span), rows);
    if (kv.k_layout == KLayout::kBlocks) {
      for (int i = 0; i < span.count; i += 16)
        unblock_keys<Load>(rows.k[i], kv.K, span.count - i < 16 ? span.count - i : 16,
                           to + i * kv.K);
      for (int i = 0; kv.k_scale_PZG != nullptr && i < span.count; ++i) {
        const float scale = scale_of(kv, kv.k_scale_PZG, span, i);
        for (std::int64_t k = 0; k < kv.K; ++k) to[i * kv.K + k] *= scale;
      }
      return;
    }
    for (int i = 0; i < span.count; ++i)
      load_scaled_row<Load>(rows.k[i], kv.K, scale_of(kv, kv.k_scale_PZG, span, i), to + i * kv.K);
  });
}

/// The values of a span as `count` rows of U floats.
QUIRE_INLINE void load_value_rows(const KvView& kv, const KeySpan& span, float* to) {
  with_load(kv.dtype, [&](auto load) {
    using Load = decltype(load);
    TileRows rows;
    find_rows<Load>(kv, span.b, span.g, span.slot, tile_of(span), rows);
    for (int i = 0; i < span.count; ++i)
      load_scaled_row<Load>(rows.v[i], kv.U, scale_of(kv, kv.v_scale_PZG, span, i), to + i * kv.U);
  });
}

}  // namespace quire::kernel::QUIRE_ISA_NS

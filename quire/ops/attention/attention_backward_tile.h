#pragma once

// The keys and values of one unit as the backward kernel wants them, and the way of its gradients
// back into the pages.

#include "quire/base/simd.h"
#include "quire/ops/attention/attention_backward_kernel.h"
#include "quire/ops/attention/attention_tile.h"
#include "quire/ops/attention/page_table.h"
#include "quire/ops/tile/panel_product.h"

namespace quire::kernel::QUIRE_ISA_NS {

/// One side, keys or values, of the pages: `width` elements a slot.
struct Side {
  const std::byte* pages;
  PageStrides strides;
  KLayout layout;
  std::int64_t width;
  const float* scale_PZG;
};

QUIRE_INLINE Side key_side(const KvView& kv) {
  return {static_cast<const std::byte*>(kv.k_pages), kv.k_strides, kv.k_layout, kv.K,
          kv.k_scale_PZG};
}
QUIRE_INLINE Side value_side(const KvView& kv) {
  return {static_cast<const std::byte*>(kv.v_pages), kv.v_strides, KLayout::kRows, kv.U,
          kv.v_scale_PZG};
}

/// Calls f(lane, page, slot) for each key of the unit.
template <class F>
QUIRE_INLINE void each_key(const KeyUnit& unit, F&& f) {
  int lane = 0;
  for (int r = 0; r < unit.run_count; ++r)
    for (int i = 0; i < unit.runs[r].lanes; ++i, ++lane)
      f(lane, unit.runs[r].page, unit.runs[r].slot + i);
}

/// One key of a block of 16, which begins at `from`.
template <class Load>
QUIRE_INLINE void widen_lane(const std::byte* from, [[maybe_unused]] std::int64_t lane,
                             std::int64_t n, float* to) {
  if constexpr (kGrouped<Load>) {
    widen_group_lane<typename Load::Form>(from - lane, lane, n, to, 1);
  } else {
    for (std::int64_t k = 0; k < n; ++k) to[k] = one<Load>(from + 16 * k * Load::kBytes);
  }
}

/// The unit's keys or values as rows of padded(width) floats, zeros after them and in the lanes up
/// to 64; as they are stored, without scales.
template <class Load>
void gather_rows(const Side& side, const KeyUnit& unit, std::int64_t g, float* rows) {
  const std::int64_t stride = padded(side.width);
  each_key(unit, [&](int lane, std::int64_t page, std::int64_t slot) {
    float* row = rows + lane * stride;
    const std::byte* from =
        side.pages + slot_offset(side.strides, side.layout, page, slot, g) * Load::kBytes;
    store(row + stride - 16, zero());
    if (side.layout == KLayout::kRows) return widen_row<Load>(from, side.width, row);
    widen_lane<Load>(from, slot % 16, side.width, row);
  });
  for (std::int64_t i = unit.lanes * stride; i < kUnitKeys * stride; i += 16)
    store(rows + i, zero());
}

/// Multiplies the rows of i8 by their scales.
inline void scale_rows(const KvView& kv, const Side& side, const KeyUnit& unit, std::int64_t g,
                       float* rows) {
  if (side.scale_PZG == nullptr) return;
  const std::int64_t stride = padded(side.width);
  each_key(unit, [&](int lane, std::int64_t page, std::int64_t slot) {
    const F32 scale = set1(side.scale_PZG[(page * kv.Z + slot) * kv.G + g]);
    float* row = rows + lane * stride;
    for (std::int64_t k = 0; k < stride; k += 16) store(row + k, mul(load(row + k), scale));
  });
}

QUIRE_INLINE bool finite_rows(const float* rows, std::int64_t count) {
  F32 probe = zero();  // stays 0 while 0 · x is
  for (std::int64_t i = 0; i < count; i += 16) probe = fma(load(rows + i), zero(), probe);
  return all_finite(probe);
}

/// Rows of padded(width) floats to 4 blocks of 16 rows: element k of row i at k · 16 + i.
inline void interleave_rows(const float* rows, std::int64_t width, int lanes, float* blocks) {
  const std::int64_t stride = padded(width);
  for (int p = 0; 16 * p < lanes; ++p) {
    for (std::int64_t k = 0; k < width; k += 16) {
      F32 square[16];
      for (int i = 0; i < 16; ++i) square[i] = load(rows + (16 * p + i) * stride + k);
      transpose(square);
      const std::int64_t n = width - k < 16 ? width - k : 16;
      for (std::int64_t j = 0; j < n; ++j) store(blocks + 16 * (p * width + k + j), square[j]);
    }
  }
}

/// Adds rows of padded(width) floats to the gradients' pages, which lie as the pages do.
inline void add_to_pages(const Side& side, const KeyUnit& unit, std::int64_t g, const float* rows,
                         float* pages) {
  each_key(unit, [&](int lane, std::int64_t page, std::int64_t slot) {
    const float* row = rows + lane * padded(side.width);
    float* to = pages + slot_offset(side.strides, side.layout, page, slot, g);
    if (side.layout == KLayout::kBlocks) {
      for (std::int64_t k = 0; k < side.width; ++k) to[16 * k] += row[k];
      return;
    }
    for (std::int64_t k = 0; k < side.width; k += 16) {
      const int n = side.width - k < 16 ? static_cast<int>(side.width - k) : 16;
      store_first(to + k, add(load_first(to + k, n), load(row + k)), n);
    }
  });
}

}  // namespace quire::kernel::QUIRE_ISA_NS

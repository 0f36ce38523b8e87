#pragma once

// 64 key positions of one kv head as the compute kernel wants them: keys in 4 blocks of 16, values
// in rows. Where the cache already stores them so, the tile points into it; else it is gathered and
// widened to f32, element k of key i at k·64 + i.

#include "quire/base/simd.h"
#include "quire/ops/attention/attention_kernel.h"
#include "quire/ops/attention/group_tile.h"
#include "quire/ops/attention/page_table.h"
#include "quire/ops/attention/visible.h"
#include "quire/ops/tile/panel_product.h"

namespace quire::kernel::QUIRE_ISA_NS {

struct Tile {
  DType k_dtype, v_dtype;
  const std::byte* k[4];  // of 16 keys each
  std::int64_t k_step_bytes;
  const std::byte* v[4];                     // of the first of 16 positions each
  std::int64_t v_step_bytes, v_block_bytes;  // to the next row; to the next 64 columns
  bool v_joined;                             // the four follow one another
  const std::byte *k_next[4], *v_next[4];    // where the next tile lies; null: nothing to ask for
  const float *k_scale, *v_scale, *bias;     // of 64 positions, or null
  std::int64_t position;                     // of lane 0
  int begin, end;                            // lanes that hold keys
  bool finite;  // no NaN or infinity among the values; unknown counts as no
};

/// Scratch of a tile: [64 · K] keys and then, of few rows in the same place, [64 · width] values
/// (width in whole blocks of 64 columns); 3 · 64 floats.
struct TileMemory {
  float *tile, *k_scale, *v_scale, *bias;
};

template <class F>
QUIRE_INLINE void with_load(DType dtype, F&& f) {
  switch (dtype) {
    case DType::kF16:
      return f(LoadF16{});
    case DType::kBF16:
      return f(LoadBF16{});
    case DType::kI8:
      return f(LoadI8{});
    default:
      return f(LoadF32{});
  }
}

/// The same for what is gathered, grouped forms included: they have rows and blocks, but no at().
template <class F>
QUIRE_INLINE void with_stored(DType dtype, F&& f) {
  if (dtype == DType::kI8H) return f(LoadI8H{});
  if (is_grouped(dtype)) return f(LoadI4{});
  with_load(dtype, f);
}

/// The page that holds slot `slot` of a sequence, and the slot inside it.
struct Place {
  std::int64_t page, slot;
};

/// The number in its sequence of the page that holds a slot. (A division of 32 bits takes half the
/// time of one of 64.)
QUIRE_INLINE std::int64_t page_number(const KvView& kv, std::int64_t slot) {
  const auto low = static_cast<std::uint32_t>(slot), page = static_cast<std::uint32_t>(kv.Z);
  if (low == static_cast<std::uint64_t>(slot) && page == static_cast<std::uint64_t>(kv.Z))
    return low / page;
  return slot / kv.Z;
}

QUIRE_INLINE Place place_of(const KvView& kv, std::int64_t b, std::int64_t g, std::int64_t slot) {
  const std::int64_t w = page_number(kv, slot);
  return {page_at(kv, b, g, w), slot - w * kv.Z};
}

template <class Load>
QUIRE_INLINE float one(const std::byte* p) {
  alignas(64) std::byte sixteen[64] = {};
  __builtin_memcpy(sixteen, p, static_cast<std::size_t>(Load::kBytes));
  alignas(64) float out[16];
  store(out, Load::at(sixteen));
  return out[0];
}

/// n floats (any n) from stored elements, without reading past them.
template <class Load>
QUIRE_INLINE void widen_row(const std::byte* from, std::int64_t n, float* to) {
  if constexpr (kGrouped<Load>) {
    widen_group_row<typename Load::Form>(from, n, to);
  } else {
    std::int64_t i = 0;
    for (; i + 16 <= n; i += 16) store(to + i, Load::at(from + i * Load::kBytes));
    if (i < n) {
      alignas(64) std::byte rest[64] = {};
      __builtin_memcpy(rest, from + i * Load::kBytes,
                       static_cast<std::size_t>((n - i) * Load::kBytes));
      store_first(to + i, Load::at(rest), static_cast<int>(n - i));
    }
  }
}

/// Where the keys and the values of a tile's lanes begin. Lanes without a key borrow a neighbour's:
/// they are masked.
struct TileRows {
  const std::byte *k[kTileKeys], *v[kTileKeys];
};

template <class Load>
QUIRE_INLINE void find_rows(const KvView& kv, std::int64_t b, std::int64_t g,
                            std::int64_t first_slot, const Tile& tile, TileRows& rows) {
  const bool blocks = kv.k_layout == KLayout::kBlocks;
  for (int lane = tile.begin; lane < tile.end;) {
    const Place at = place_of(kv, b, g, first_slot + lane);
    const auto* k = static_cast<const std::byte*>(kv.k_pages) +
                    (at.page * kv.k_strides.page + g * kv.k_strides.head) * Load::kBytes;
    const auto* v = static_cast<const std::byte*>(kv.v_pages) +
                    (at.page * kv.v_strides.page + g * kv.v_strides.head) * Load::kBytes;
    const std::int64_t left = kv.Z - at.slot;
    const int end = left < tile.end - lane ? lane + static_cast<int>(left) : tile.end;
    for (std::int64_t slot = at.slot; lane < end; ++lane, ++slot) {
      const std::int64_t key =
          blocks ? slot / 16 * 16 * kv.k_strides.slot + slot % 16 : slot * kv.k_strides.slot;
      rows.k[lane] = k + key * Load::kBytes;
      rows.v[lane] = v + slot * kv.v_strides.slot * Load::kBytes;
    }
  }
  for (int lane = 0; lane < tile.begin; ++lane) rows.k[lane] = rows.k[tile.begin];
  for (int lane = tile.end; lane < kTileKeys; ++lane) rows.k[lane] = rows.k[tile.begin];
}

/// Asks for a line of each of 16 rows; null: none.
QUIRE_INLINE void ask_rows(const std::byte* first, std::int64_t row_bytes, std::int64_t at) {
  if (first == nullptr || at % 64 != 0) return;
#pragma GCC unroll 16
  for (int i = 0; i < 16; ++i) prefetch_far(first + i * row_bytes + at);
}

/// 16 keys that lie as rows into 16 columns of a tile with rows of 64. The 16 rows from `next` on,
/// if any, are asked for meanwhile.
template <class Load>
QUIRE_INLINE void turn_keys(const std::byte* const* rows, std::int64_t K, float* to,
                            const std::byte* next, std::int64_t row_bytes) {
  for (std::int64_t k = 0; k < K; k += 16) {
    F32 x[16];
    ask_rows(next, row_bytes, k * Load::kBytes);
    if (K - k >= 16) {
#pragma GCC unroll 16
      for (int i = 0; i < 16; ++i) x[i] = Load::at(rows[i] + k * Load::kBytes);
    } else {
      for (int i = 0; i < 16; ++i) {
        alignas(64) std::byte rest[64] = {};
        __builtin_memcpy(rest, rows[i] + k * Load::kBytes,
                         static_cast<std::size_t>((K - k) * Load::kBytes));
        x[i] = Load::at(rest);
      }
    }
    transpose(x);
    const std::int64_t n = K - k < 16 ? K - k : 16;
    for (std::int64_t j = 0; j < n; ++j) store(to + (k + j) * kTileKeys, x[j]);
  }
}

/// gather_keys of a grouped form.
template <class Form>
QUIRE_INLINE void gather_group_keys(const KvView& kv, std::int64_t first_slot, const Tile& tile,
                                    const TileRows& rows, float* k_tile) {
  for (int lane = tile.begin / 16 * 16; lane < tile.end; lane += 16) {
    if (kv.k_layout == KLayout::kRows) {
      turn_group_rows<Form>(rows.k + lane, kv.K, k_tile + lane, kTileKeys);
    } else if (first_slot % 16 == 0) {
      const int in = lane < tile.begin ? tile.begin : lane;
      widen_group_block<Form>(rows.k[in] - in % 16, kv.K, k_tile + lane, kTileKeys);
    } else {
      for (int i = lane; i < lane + 16; ++i) {
        const int borrowed = i < tile.begin || i >= tile.end ? tile.begin : i;
        const std::int64_t in = (first_slot + borrowed) % 16;
        widen_group_lane<Form>(rows.k[i] - in, in, kv.K, k_tile + i, kTileKeys);
      }
    }
  }
}

/// The keys of a tile: element k of lane i at k·64 + i.
template <class Load>
QUIRE_INLINE void gather_keys(const KvView& kv, std::int64_t first_slot, const Tile& tile,
                              const TileRows& rows, float* k_tile) {
  if constexpr (kGrouped<Load>) {
    gather_group_keys<typename Load::Form>(kv, first_slot, tile, rows, k_tile);
  } else {
    for (int lane = tile.begin / 16 * 16; lane < tile.end; lane += 16) {
      if (kv.k_layout == KLayout::kRows) {
        turn_keys<Load>(rows.k + lane, kv.K, k_tile + lane, tile.k_next[lane / 16],
                        kv.k_strides.slot * Load::kBytes);
      } else if (first_slot % 16 == 0) {
        // A stored block is taken whole, also over the ends: those lanes are masked.
        const int in = lane < tile.begin ? tile.begin : lane;
        const std::byte* block = rows.k[in] - (in - lane) * Load::kBytes;
        for (std::int64_t k = 0; k < kv.K; ++k)
          store(k_tile + k * kTileKeys + lane, Load::at(block + 16 * k * Load::kBytes));
      } else {
        for (int i = lane; i < lane + 16; ++i)
          for (std::int64_t k = 0; k < kv.K; ++k)
            k_tile[k * kTileKeys + i] = one<Load>(rows.k[i] + 16 * k * Load::kBytes);
      }
    }
  }
}

/// Where column `u` of row `row` lies in a tile of values: 64 columns of all rows follow one
/// another before the next 64, so that a pass over them stays in L1.
constexpr std::int64_t value_offset(std::int64_t row, std::int64_t u, std::int64_t rows) {
  return (u / 64 * rows + row) * 64 + u % 64;
}

/// Columns [begin, end) of a tile's values, filled up with zeros to whole vectors; `begin` is a
/// multiple of 64, and column `begin` comes first. False when one is not finite.
template <class Load>
QUIRE_INLINE bool gather_values(const KvView& kv, const Tile& tile, const TileRows& rows,
                                std::int64_t begin, std::int64_t end, float* v_tile) {
  F32 probe[4] = {zero(), zero(), zero(), zero()};  // stay 0 while 0 · v is
  const std::int64_t last = end < kv.U ? end : kv.U;
  for (int lane = tile.begin; lane < tile.end; ++lane) {
    for (std::int64_t first = begin; first < last; first += 64) {
      float* row = v_tile + value_offset(lane, first - begin, kTileKeys);
      const std::int64_t n = last - first < 64 ? last - first : 64;
      if (n % 16 != 0) store(row + n / 16 * 16, zero());
      widen_row<Load>(rows.v[lane] + stored_bytes<Load>(first), n, row);
      for (std::int64_t u = 0; u < n; u += 16)
        probe[u / 16] = fma(load(row + u), zero(), probe[u / 16]);
    }
  }
  return all_finite(add(add(probe[0], probe[1]), add(probe[2], probe[3])));
}

/// Points the tile at what was gathered.
QUIRE_INLINE void use_keys(Tile& tile, const float* k) {
  tile.k_dtype = DType::kF32;
  tile.k_step_bytes = 4 * kTileKeys;
  for (int p = 0; p < 4; ++p) tile.k[p] = reinterpret_cast<const std::byte*>(k + 16 * p);
}
/// Rows of 64 columns, `rows` of them for the 64 lanes.
QUIRE_INLINE void use_values(Tile& tile, const float* v, std::int64_t rows) {
  tile.v_dtype = DType::kF32;
  tile.v_step_bytes = 4 * 64;
  tile.v_block_bytes = 4 * 64 * rows;
  tile.v_joined = true;
  for (int p = 0; p < 4; ++p) tile.v[p] = reinterpret_cast<const std::byte*>(v + 64 * p * rows / 4);
}

/// What belongs to each key: scales of i8, bias of the kv head.
QUIRE_INLINE void gather_key_floats(const KvView& kv, std::int64_t b, std::int64_t g,
                                    std::int64_t first_slot, Tile& tile, const TileMemory& m) {
  tile.k_scale = kv.k_scale_PZG == nullptr ? nullptr : m.k_scale;
  tile.v_scale = kv.v_scale_PZG == nullptr ? nullptr : m.v_scale;
  const bool shared_bias =
      kv.bias != nullptr && kv.bias_heads <= kv.G;  // one per query head is added row by row
  tile.bias = shared_bias ? m.bias : nullptr;
  if (tile.k_scale == nullptr && tile.v_scale == nullptr && !shared_bias) return;
  for (int lane = 0; lane < kTileKeys; ++lane) {
    m.k_scale[lane] = m.v_scale[lane] = m.bias[lane] = 0;
    if (lane < tile.begin || lane >= tile.end) continue;
    const Place at = place_of(kv, b, g, first_slot + lane);
    const std::int64_t key = at.page * kv.Z + at.slot;
    if (tile.k_scale != nullptr) m.k_scale[lane] = kv.k_scale_PZG[key * kv.G + g];
    if (tile.v_scale != nullptr) m.v_scale[lane] = kv.v_scale_PZG[key * kv.G + g];
    if (shared_bias) m.bias[lane] = kv.bias[key * kv.bias_heads + (kv.bias_heads == 1 ? 0 : g)];
  }
}

/// What PageStrides count in.
QUIRE_INLINE std::int64_t unit_bytes(DType dtype) {
  std::int64_t bytes = 0;
  with_stored(dtype, [&](auto load) { bytes = decltype(load)::kBytes; });
  return bytes;
}

/// Where 64 positions lie in the cache, 16 by 16. False when 16 may lie in two pages.
struct Runs {
  const std::byte *k[4], *v[4];
};

QUIRE_INLINE bool find_runs(const KvView& kv, std::int64_t b, std::int64_t g,
                            std::int64_t first_slot, int lanes, Runs& runs) {
  if (first_slot < 0 || first_slot % 16 != 0) return false;
  const std::int64_t bytes = unit_bytes(kv.dtype);
  // One division for all four: the next runs lie in the same page or begin the one behind it.
  const std::int64_t w = page_number(kv, first_slot);
  Place at{page_at(kv, b, g, w), first_slot - w * kv.Z};
  for (int p = 0, behind = 0; p < 4; ++p, at.slot += 16) {
    if (16 * p < lanes && at.slot + 16 > kv.Z) {
      if (at.slot != kv.Z) return false;
      at = {page_at(kv, b, g, w + ++behind), 0};
    }
    // Past the end anything will do: those lanes are masked.
    const Place in = 16 * p < lanes ? at : Place{at.page, 0};
    runs.k[p] =
        static_cast<const std::byte*>(kv.k_pages) +
        (in.page * kv.k_strides.page + in.slot * kv.k_strides.slot + g * kv.k_strides.head) * bytes;
    runs.v[p] =
        static_cast<const std::byte*>(kv.v_pages) +
        (in.page * kv.v_strides.page + in.slot * kv.v_strides.slot + g * kv.v_strides.head) * bytes;
  }
  return true;
}

/// What comes after a tile: `keys` slots, at most 64, of a kv head; none or fewer: nothing that is
/// worth asking for.
struct Next {
  std::int64_t g, slot, keys;
};

/// Points the tile into the cache where it stores these positions just as the compute kernel reads
/// them: values in rows of whole vectors, keys in blocks. Returns whether nothing is left to
/// gather.
QUIRE_INLINE bool borrow(const KvView& kv, std::int64_t b, std::int64_t g, std::int64_t first_slot,
                         const Next& behind, Tile& tile) {
  Runs runs, next;
  if (is_grouped(kv.dtype) || tile.begin != 0 || kv.U % 16 != 0 ||
      !find_runs(kv, b, g, first_slot, tile.end, runs))
    return false;
  const bool blocks = kv.k_layout == KLayout::kBlocks;
  const bool more = behind.keys > 0 &&
                    find_runs(kv, b, behind.g, behind.slot, static_cast<int>(behind.keys), next);
  const std::int64_t bytes = unit_bytes(kv.dtype);
  tile.k_dtype = tile.v_dtype = kv.dtype;
  tile.k_step_bytes = 16 * bytes;
  tile.v_step_bytes = kv.v_strides.slot * bytes;
  tile.v_block_bytes = 64 * bytes;
  tile.v_joined = false;
  tile.finite = false;
  for (int p = 0; p < 4; ++p) {
    tile.v[p] = runs.v[p];
    tile.v_next[p] = more ? next.v[p] : nullptr;
    tile.k[p] = runs.k[p];
    tile.k_next[p] = more ? next.k[p] : nullptr;
  }
  return blocks;
}

}  // namespace quire::kernel::QUIRE_ISA_NS

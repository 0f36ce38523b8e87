// Grouped products, compiled once per instruction set. A block of weights is packed to rows of 64
// columns, kGroupedDepth inputs at a time, which stay in the first cache while every row of the
// group meets them; sums wait in memory between the depths, so an output is still one chain.

#include "quire/base/simd.h"
#include "quire/ops/matmul/grouped_kernel.h"
#include "quire/ops/matmul/matmul_kernel.h"
#include "quire/ops/tile/gemm_tile.h"

namespace quire::kernel::QUIRE_ISA_NS {
namespace {

// ---- packing

template <class Load>
void pack_along(const WeightBlock& w, std::int64_t begin, std::int64_t end, float* packed) {
  for (std::int64_t k = begin; k < end; ++k, packed += kPackedColumns) {
    const std::byte* row = w.data + k * w.k_step;
    std::int64_t c = 0;
    for (; c + 16 <= w.columns; c += 16) store(packed + c, Load::at(row + c * Load::kBytes));
    if (c == kPackedColumns) continue;
    alignas(64) std::byte rest[64] = {};
    __builtin_memcpy(rest, row + c * Load::kBytes,
                     static_cast<std::size_t>((w.columns - c) * Load::kBytes));
    store(packed + c, Load::at(rest));
    for (c += 16; c < kPackedColumns; c += 16) store(packed + c, zero());
  }
}

// The inputs of a column lie side by side: 16 columns of 16 inputs are turned at a time.
template <class Load>
void pack_across(const WeightBlock& w, std::int64_t begin, std::int64_t end, float* packed) {
  for (std::int64_t k = begin; k < end; k += 16) {
    const std::int64_t inputs = end - k < 16 ? end - k : 16;
    for (std::int64_t c = 0; c < kPackedColumns; c += 16) {
      F32 tile[16];
      for (int i = 0; i < 16; ++i) {
        if (c + i >= w.columns) {
          tile[i] = zero();
          continue;
        }
        const std::byte* from = w.data + (c + i) * w.m_step + k * Load::kBytes;
        if (inputs == 16) {
          tile[i] = Load::at(from);
          continue;
        }
        alignas(64) std::byte rest[64] = {};
        __builtin_memcpy(rest, from, static_cast<std::size_t>(inputs * Load::kBytes));
        tile[i] = Load::at(rest);
      }
      transpose(tile);
      for (int i = 0; i < inputs; ++i)
        store(packed + (k - begin + i) * kPackedColumns + c, tile[i]);
    }
  }
}

// Panels of 16 outputs: each is widened to [inputs, 16].
void pack_panels(const WeightBlock& w, std::int64_t begin, std::int64_t end, float* packed) {
  const PanelFormat f = panel_format(w.type);
  const std::int64_t whole = w.panel_columns / f.block * f.panel_bytes;
  alignas(64) float tile[kGroupedDepth * 16];
  for (std::int64_t c = 0; c < kPackedColumns; c += 16) {
    if (c < w.columns) {
      widen_panel(w.type, w.panels + (w.first + c) / 16 * whole + begin / f.block * f.panel_bytes,
                  end - begin, tile);
    } else {
      __builtin_memset(tile, 0, sizeof tile);
    }
    for (std::int64_t k = begin; k < end; ++k)
      store(packed + (k - begin) * kPackedColumns + c, load(tile + 16 * (k - begin)));
  }
}

// Panels of 16 inputs: each gives [columns, 16], which is turned.
void pack_turned(const WeightBlock& w, std::int64_t begin, std::int64_t end, float* packed) {
  const PanelFormat f = panel_format(w.type);
  const std::int64_t whole = w.panel_columns / f.block * f.panel_bytes;
  alignas(64) float tile[kPackedColumns * 16] = {};
  for (std::int64_t k = begin; k < end; k += 16) {
    widen_panel(w.type, w.panels + k / 16 * whole + w.first / f.block * f.panel_bytes, w.columns,
                tile);
    const std::int64_t inputs = end - k < 16 ? end - k : 16;
    for (std::int64_t c = 0; c < kPackedColumns; c += 16) {
      F32 turned[16];
      for (int i = 0; i < 16; ++i) turned[i] = load(tile + 16 * (c + i));
      transpose(turned);
      for (int i = 0; i < inputs; ++i)
        store(packed + (k - begin + i) * kPackedColumns + c, turned[i]);
    }
  }
}

template <class Load>
void pack_dense(const WeightBlock& w, std::int64_t begin, std::int64_t end, float* packed) {
  if (w.m_step == Load::kBytes) return pack_along<Load>(w, begin, end, packed);
  pack_across<Load>(w, begin, end, packed);
}

void pack(const WeightBlock& w, std::int64_t begin, std::int64_t end, float* packed) {
  if (w.type >= 0) {
    if (w.turned) return pack_turned(w, begin, end, packed);
    return pack_panels(w, begin, end, packed);
  }
  if (w.dtype == DType::kBF16) return pack_dense<LoadBF16>(w, begin, end, packed);
  if (w.dtype == DType::kF16) return pack_dense<LoadF16>(w, begin, end, packed);
  pack_dense<LoadF32>(w, begin, end, packed);
}

// ---- tiles

/// One depth of a block: inputs [begin, end).
struct Depth {
  const GroupedBlock* block;
  std::int64_t begin, end;
  Ahead ahead;
};

template <int T, int P, int kLines>
QUIRE_INLINE void tile(const Depth& depth, std::int64_t row, Ahead ahead) {
  const GroupedBlock& a = *depth.block;
  Array<const float*, T> x;
  for (int t = 0; t < T; ++t) x[t] = a.x[row + t] + depth.begin;
  Accumulators<T, P> acc;
  float* sums = a.sums + row * kPackedColumns;
  for (int t = 0; t < T; ++t)
    for (int p = 0; p < P; ++p)
      acc[t][p] = depth.begin == 0 ? zero() : load(sums + t * kPackedColumns + 16 * p);
  packed_product<T, P, kLines>(acc, x, a.packed, depth.end - depth.begin, ahead);
  for (int t = 0; t < T; ++t)
    for (int p = 0; p < P; ++p) store(sums + t * kPackedColumns + 16 * p, acc[t][p]);
}

// Every tile asks for its share of the next block, so that it arrives by the time it is packed.
template <int P, int kLines>
void rows_of(const Depth& depth) {
  const std::int64_t rows = depth.block->rows;
  std::int64_t row = 0, line = 0;
  for (; row + 6 <= rows; row += 6, line += kLines) {
    Ahead ahead = depth.ahead;
    ahead.at += line * ahead.line;
    if (kLines > 0 && line < 4) {
      tile<6, P, kLines>(depth, row, ahead);
    } else {
      tile<6, P, 0>(depth, row, ahead);
    }
  }
  switch (rows - row) {
    case 1:
      return tile<1, P, kLines>(depth, row, depth.ahead);
    case 2:
      return tile<2, P, kLines>(depth, row, depth.ahead);
    case 3:
      return tile<3, P, kLines>(depth, row, depth.ahead);
    case 4:
      return tile<4, P, kLines>(depth, row, depth.ahead);
    case 5:
      return tile<5, P, kLines>(depth, row, depth.ahead);
    default:
      return;
  }
}

template <int P>
void depth_of(const Depth& depth) {
  const std::int64_t tiles = depth.block->rows / 6;
  if (depth.ahead.at == nullptr) return rows_of<P, 0>(depth);
  if (tiles >= 4) return rows_of<P, 1>(depth);
  if (tiles >= 2) return rows_of<P, 2>(depth);
  rows_of<P, 4>(depth);
}

Ahead ahead_of(const WeightBlock& w, std::int64_t K, std::int64_t begin) {
  if (w.next == nullptr) return {nullptr, 0, 0};
  const bool along = w.k_step > w.m_step;
  if (along) return {w.next + begin * w.k_step, w.k_step, 64};
  // Column after column, K inputs each: as if it were one row of lines.
  return {w.next + begin * 64, 64, 64 * K};
}

// ---- results

void finish(const GroupedBlock& a) {
  const std::int64_t columns = a.weight.columns;
  for (std::int64_t r = 0; r < a.rows; ++r) {
    float* sums = a.sums + r * kPackedColumns;
    if (a.bias != nullptr) {
      for (std::int64_t c = 0; c < columns; c += 16) {
        const int lanes = static_cast<int>(columns - c < 16 ? columns - c : 16);
        store(sums + c, add(load(sums + c), load_first(a.bias + c, lanes)));
      }
    }
    narrow_floats(a.out[r], sums, columns, a.out_dtype);
  }
}

template <int T>
void outer_rows(const OuterBlock& a, std::int64_t k) {
  const auto with_columns = [&](auto number) {
    constexpr int P = decltype(number)::kValue;
    Accumulators<T, P> acc;
    float* out = a.out + k * a.out_step;
    const int last = static_cast<int>(a.columns - 16 * (P - 1));
    for (int t = 0; t < T; ++t) {
      for (int p = 0; p < P; ++p) {
        const float* from = out + t * a.out_step + 16 * p;
        acc[t][p] = a.add ? load_first(from, p + 1 < P ? 16 : last) : zero();
      }
    }
    packed_outer<T, P>(acc, a.x, a.first + k, a.packed, a.count);
    for (int t = 0; t < T; ++t)
      for (int p = 0; p < P; ++p)
        store_first(out + t * a.out_step + 16 * p, acc[t][p], p + 1 < P ? 16 : last);
  };
  if (a.columns > 48) return with_columns(Constant<4>{});
  if (a.columns > 32) return with_columns(Constant<3>{});
  if (a.columns > 16) return with_columns(Constant<2>{});
  with_columns(Constant<1>{});
}

}  // namespace

void grouped_block(const GroupedBlock& a) {
  if (a.K == 0) __builtin_memset(a.sums, 0, static_cast<std::size_t>(a.rows * kPackedColumns) * 4);
  for (std::int64_t begin = 0; begin < a.K; begin += kGroupedDepth) {
    const std::int64_t end = begin + kGroupedDepth < a.K ? begin + kGroupedDepth : a.K;
    pack(a.weight, begin, end, a.packed);
    const Depth depth{&a, begin, end, ahead_of(a.weight, a.K, begin)};
    if (a.weight.columns > 48) {
      depth_of<4>(depth);
    } else if (a.weight.columns > 32) {
      depth_of<3>(depth);
    } else if (a.weight.columns > 16) {
      depth_of<2>(depth);
    } else {
      depth_of<1>(depth);
    }
  }
  finish(a);
}

void outer_block(const OuterBlock& a) {
  std::int64_t k = 0;
  for (; k + 6 <= a.inputs; k += 6) outer_rows<6>(a, k);
  switch (a.inputs - k) {
    case 1:
      return outer_rows<1>(a, k);
    case 2:
      return outer_rows<2>(a, k);
    case 3:
      return outer_rows<3>(a, k);
    case 4:
      return outer_rows<4>(a, k);
    case 5:
      return outer_rows<5>(a, k);
    default:
      return;
  }
}

void pack_rows(float* packed, const float* const* rows, const float* factor, std::int64_t count,
               std::int64_t columns) {
  for (std::int64_t n = 0; n < count; ++n, packed += kPackedColumns) {
    const F32 scale = set1(factor == nullptr ? 1.0f : factor[n]);
    for (std::int64_t c = 0; c < columns; c += 16) {
      const int lanes = static_cast<int>(columns - c < 16 ? columns - c : 16);
      const F32 value = load_first(rows[n] + c, lanes);
      store(packed + c, factor == nullptr ? value : mul(value, scale));
    }
  }
}

void narrow_floats(void* out, const float* x, std::int64_t count, DType dtype) {
  for (std::int64_t c = 0; c < count; c += 16) {
    const int lanes = static_cast<int>(count - c < 16 ? count - c : 16);
    const F32 value = load_first(x + c, lanes);
    if (dtype == DType::kF32) {
      store_first(static_cast<float*>(out) + c, value, lanes);
      continue;
    }
    alignas(64) std::byte two[32];
    if (dtype == DType::kBF16) {
      store_bf16(two, value);
    } else {
      store_f16(two, value);
    }
    __builtin_memcpy(static_cast<std::byte*>(out) + 2 * c, two,
                     static_cast<std::size_t>(2 * lanes));
  }
}

}  // namespace quire::kernel::QUIRE_ISA_NS

// The matmul kernels, compiled once per instruction set. A weight is a row of panels of 16 rows;
// one vector holds one column of a panel, so every output is one lane and one chain of FMAs, and
// nothing is ever added across lanes.

#include "quire/base/simd.h"
#include "quire/ops/matmul/block/float.h"
#include "quire/ops/matmul/block/integer.h"
#include "quire/ops/matmul/block/q4_1.h"
#include "quire/ops/matmul/block/q8_0.h"
#include "quire/ops/matmul/matmul_kernel.h"
#include "quire/ops/tile/panel_product.h"

namespace quire::kernel::QUIRE_ISA_NS {
namespace {

// ---- block types

/// Calls f with the block type of a WeightType, in the order of that enum. A further type is one
/// line here.
template <class F>
decltype(auto) with_block(int type, F&& f) {
  switch (type) {
    case 0:
      return f(BlockF32{});
    case 1:
      return f(BlockF16{});
    case 2:
      return f(BlockBF16{});
    case 3:
      return f(BlockQ4_1{});
    default:
      return f(BlockQ8_0{});
  }
}

/// Panels of integer blocks lie block after block.
template <class Block>
void pack_integers(const std::byte* source, std::int64_t stride, int rows, std::int64_t D,
                   std::byte* panel) {
  const PanelFormat& f = Block::kFormat;
  __builtin_memset(panel, 0, static_cast<std::size_t>(D / f.block * f.panel_bytes));
  for (int r = 0; r < rows; ++r)
    for (std::int64_t b = 0; b < D / f.block; ++b)
      Block::pack_block(source + r * stride + b * f.block_bytes, r, panel + b * f.panel_bytes);
}

template <class Block>
void widen_integers(const std::byte* panel, std::int64_t D, float* tile_D16) {
  Integers w;
  for (std::int64_t b = 0; b < D / 32; ++b) {
    Block::unpack(panel + b * Block::kFormat.panel_bytes, w);
    for (int q = 0; q < 8; ++q) {
      alignas(64) std::uint8_t bytes[64];
      store_bytes(bytes, w.quads[q]);
      for (int j = 0; j < 4; ++j) {
        alignas(64) float column[16];
        for (int r = 0; r < 16; ++r)
          column[r] = static_cast<float>(bytes[4 * r + j] - Block::kZero);
        F32 value = mul(load(column), w.scale);
        if (Block::kHasMinimum) value = add(value, w.minimum);
        store(tile_D16 + (32 * b + 4 * q + j) * 16, value);
      }
    }
  }
}

// ---- exact: widened panels, f32 inputs
// ----------------------------------------------------------------------------------

constexpr int kWidePanels =
    4;  // 4 panels × 6 rows are 24 accumulators: with 4 columns and one input, 29 of 32 registers

/// How many of a panel's 16 rows exist.
QUIRE_INLINE int rows_in(std::int64_t panel, std::int64_t M) {
  return M - 16 * panel < 16 ? static_cast<int>(M - 16 * panel) : 16;
}

template <int P, int T>
void exact_rows(const MatmulPiece& a, std::int64_t panel, std::int64_t n) {
  Accumulators<T, P> acc;
  clear<T, P>(acc);
  Array<const float*, T> x;
  for (int t = 0; t < T; ++t) x[t] = a.input.x_ND + (n + t) * a.input.D;
  const auto* tile = reinterpret_cast<const std::byte*>(a.scratch);
  panel_product<LoadF32, T, P>(acc, x, tile, 64 * a.input.D, 64, 0, a.input.D);
  for (int t = 0; t < T; ++t)
    for (int p = 0; p < P; ++p)
      store_first(a.weight.out_NM + (n + t) * a.weight.M + 16 * (panel + p), acc[t][p],
                  rows_in(panel + p, a.weight.M));
}

template <class Block, int P>
void exact_panels(const MatmulPiece& a, std::int64_t panel) {
  const std::int64_t bytes = a.input.D / Block::kFormat.block * Block::kFormat.panel_bytes;
  for (int p = 0; p < P; ++p) {
    if constexpr (Block::kFormat.quantized) {
      widen_integers<Block>(a.weight.panels + (panel + p) * bytes, a.input.D,
                            a.scratch + p * 16 * a.input.D);
    } else {
      Block::widen(a.weight.panels + (panel + p) * bytes, a.input.D,
                   a.scratch + p * 16 * a.input.D);
    }
  }
  std::int64_t n = 0;
  for (; n + 6 <= a.input.N; n += 6) exact_rows<P, 6>(a, panel, n);
  for (; n + 2 <= a.input.N; n += 2) exact_rows<P, 2>(a, panel, n);
  for (; n < a.input.N; ++n) exact_rows<P, 1>(a, panel, n);
}

template <class Block>
void exact(const MatmulPiece& a) {
  std::int64_t panel = a.first;
  for (; panel + kWidePanels <= a.last; panel += kWidePanels)
    exact_panels<Block, kWidePanels>(a, panel);
  for (; panel < a.last; ++panel) exact_panels<Block, 1>(a, panel);
}

// ---- integer: bytes times rounded inputs
// ----------------------------------------------------------------------------------

/// A panel that was unpacked once, for many rows of input: per block of 32 columns 8 × 64 bytes,
/// then scales and minima.
struct Unpacked {
  static constexpr std::int64_t kBytes = 512 + 128;
};

QUIRE_INLINE void read_unpacked(const std::byte* block, Integers& out) {
  for (int q = 0; q < 8; ++q) out.quads[q] = load_bytes(block + 64 * q);
  out.scale = load(reinterpret_cast<const float*>(block + 512));
  out.minimum = load(reinterpret_cast<const float*>(block + 576));
}

/// What is asked for while a panel is multiplied: `step_bytes` for each of its groups.
struct Ahead {
  const std::byte* at;
  std::int64_t step_bytes;  // 0: nothing

  [[gnu::always_inline]] void ask(std::int64_t group) const {
    for (std::int64_t line = 0; line < step_bytes; line += 64)
      prefetch_far(at + group * step_bytes + line);
  }
};

/// T rounded rows against one panel. Each output is one chain over the groups of 32: the integer
/// dot product is exact, then one FMA for the scale and one for the minimum.
template <class Block, bool kUnpacked, int T>
void integer_tile(const std::byte* panel, std::int64_t groups, const std::int8_t* x,
                  const Rounded* meta, const Ahead& ahead, Array<F32, T>& acc) {
  constexpr std::int64_t kStep = kUnpacked ? Unpacked::kBytes : Block::kFormat.panel_bytes;
  for (int t = 0; t < T; ++t) acc[t] = zero();
  for (std::int64_t g = 0; g < groups; ++g, panel += kStep) {
    ahead.ask(g);
    Integers w;
    if constexpr (kUnpacked) {
      read_unpacked(panel, w);
    } else {
      Block::unpack(panel, w);
    }
    Array<I32, T> dot;
#pragma GCC unroll 8
    for (int t = 0; t < T; ++t) {
      dot[t] = set1_i32(Block::kZero == 0 ? 0 : -Block::kZero * meta[t * groups + g].sum);
    }
#pragma GCC unroll 8
    for (int q = 0; q < 8; ++q) {
#pragma GCC unroll 8
      for (int t = 0; t < T; ++t)
        dot[t] = dot4(dot[t], w.quads[q], repeat4(x + (t * groups + g) * 32 + 4 * q));
    }
#pragma GCC unroll 8
    for (int t = 0; t < T; ++t) {
      const Rounded& m = meta[t * groups + g];
      acc[t] = fma(to_f32(dot[t]), mul(w.scale, set1(m.scale)), acc[t]);
      if constexpr (Block::kHasMinimum) acc[t] = fma(w.minimum, set1(m.scaled_sum), acc[t]);
    }
  }
}

/// Rows [row, row + T) of the rounded input (terms · N of them); the terms of one input are added
/// at the end.
template <class Block, bool kUnpacked, int T>
void integer_rows(const MatmulPiece& a, const std::byte* bytes, std::int64_t panel,
                  std::int64_t row, const Ahead& ahead) {
  const std::int64_t groups = a.input.D / 32;
  Array<F32, T> acc;
  integer_tile<Block, kUnpacked, T>(bytes, groups, a.input.rounded_ND + row * a.input.D,
                                    a.input.rounded_NG + row * groups, ahead, acc);
  float* out = a.weight.out_NM + row / a.input.terms * a.weight.M + 16 * panel;
  const int rows = rows_in(panel, a.weight.M);
  if (a.input.terms == 1) {
    for (int t = 0; t < T; ++t) store_first(out + t * a.weight.M, acc[t], rows);
  } else if constexpr (T % 2 == 0) {
    for (int t = 0; t < T; t += 2)
      store_first(out + t / 2 * a.weight.M, add(acc[t], acc[t + 1]), rows);
  }
}

/// All rows against a panel; meanwhile the `next` bytes behind it are asked for.
template <class Block, bool kUnpacked>
void integer_panel(const MatmulPiece& a, const std::byte* bytes, std::int64_t panel,
                   const std::byte* next, std::int64_t next_bytes) {
  const std::int64_t rows = a.input.N * a.input.terms, groups = a.input.D / 32;
  // Each eight rows ask for a part of it, in whole lines.
  const std::int64_t step =
      next_bytes == 0 ? 0 : next_bytes / groups / ((rows + 7) / 8) / 64 * 64 + 64;
  std::int64_t row = 0;
  const auto ahead = [&] {
    const std::int64_t at = row / 8 * step * groups;
    return at < next_bytes ? Ahead{next + at, step} : Ahead{next, 0};
  };
  for (; row + 8 <= rows; row += 8)
    integer_rows<Block, kUnpacked, 8>(a, bytes, panel, row, ahead());
  for (; row + 4 <= rows; row += 4)
    integer_rows<Block, kUnpacked, 4>(a, bytes, panel, row, ahead());
  for (; row + 2 <= rows; row += 2)
    integer_rows<Block, kUnpacked, 2>(a, bytes, panel, row, ahead());
  if (row < rows) integer_rows<Block, kUnpacked, 1>(a, bytes, panel, row, ahead());
}

template <class Block>
void integer(const MatmulPiece& a) {
  const std::int64_t groups = a.input.D / 32, rows = a.input.N * a.input.terms;
  const std::int64_t panel_bytes = groups * Block::kFormat.panel_bytes;
  std::byte* unpacked = reinterpret_cast<std::byte*>(a.scratch);
  for (std::int64_t panel = a.first; panel < a.last; ++panel) {
    const std::byte* bytes = a.weight.panels + panel * panel_bytes;
    // (One pass over the panel is what the processor foresees by itself.)
    const std::int64_t next_bytes = rows > 8 && panel + 1 < a.last ? panel_bytes : 0;
    if (rows <= Block::kFewRows) {
      integer_panel<Block, false>(a, bytes, panel, bytes + panel_bytes, next_bytes);
      continue;
    }
    for (std::int64_t g = 0; g < groups; ++g) {
      Integers w;
      Block::unpack(bytes + g * Block::kFormat.panel_bytes, w);
      std::byte* block = unpacked + g * Unpacked::kBytes;
      for (int q = 0; q < 8; ++q) store_bytes(block + 64 * q, w.quads[q]);
      store(reinterpret_cast<float*>(block + 512), w.scale);
      store(reinterpret_cast<float*>(block + 576), w.minimum);
    }
    integer_panel<Block, true>(a, unpacked, panel, bytes + panel_bytes, next_bytes);
  }
}

/// Below this 127 / x overflows, and a group counts as zeros.
constexpr float kSmallestGroup = 0x1p-120f;

/// Rounds 32 values to int8 by their largest magnitude; what is left over stays in `rest`.
QUIRE_INLINE Rounded round_group(const F32 (&x)[2], std::int8_t* out, F32 (&rest)[2]) {
  const float largest = reduce_max(max(abs(x[0]), abs(x[1])));
  // A NaN or infinity must reach the output, not become some integer.
  const bool finite = all_finite(x[0]) && all_finite(x[1]);
  const float scale = finite ? largest / 127.0f : __builtin_nanf("");
  const float inverse = largest > kSmallestGroup ? 127.0f / largest : 0.0f;
  F32 total = zero();
  for (int h = 0; h < 2; ++h) {
    const F32 rounded = round(mul(x[h], set1(inverse)));
    store_i8(out + 16 * h, rounded);
    rest[h] = fma(rounded, set1(-scale), x[h]);
    total = add(total, rounded);
  }
  const float sum = reduce_add(total);  // whole numbers below 2^12: exact
  return {scale, scale * sum, finite ? static_cast<std::int32_t>(sum) : 0};
}

}  // namespace

PanelFormat panel_format(int type) {
  return with_block(type, [](auto block) { return decltype(block)::kFormat; });
}

void pack_panel(int type, const std::byte* source, std::int64_t stride, int rows, std::int64_t D,
                std::byte* panel) {
  with_block(type, [&](auto block) {
    using Block = decltype(block);
    if constexpr (Block::kFormat.quantized) {
      pack_integers<Block>(source, stride, rows, D, panel);
    } else {
      Block::pack(source, stride, rows, D, panel);
    }
  });
}

void widen_panel(int type, const std::byte* panel, std::int64_t D, float* tile_D16) {
  with_block(type, [&](auto block) {
    using Block = decltype(block);
    if constexpr (Block::kFormat.quantized) {
      widen_integers<Block>(panel, D, tile_D16);
    } else {
      Block::widen(panel, D, tile_D16);
    }
  });
}

void matmul_piece(const MatmulPiece& a) {
  with_block(a.weight.type, [&](auto block) {
    using Block = decltype(block);
    if constexpr (Block::kFormat.quantized) {
      if (a.input.terms > 0) return integer<Block>(a);
    }
    exact<Block>(a);
  });
}

void round_row(const float* x_D, std::int64_t D, int terms, std::int8_t* rounded, Rounded* groups) {
  for (std::int64_t g = 0; g < D / 32; ++g) {
    F32 x[2] = {load(x_D + 32 * g), load(x_D + 32 * g + 16)};
    F32 rest[2];
    for (int term = 0; term < terms; ++term) {
      groups[term * (D / 32) + g] = round_group(x, rounded + term * D + 32 * g, rest);
      x[0] = rest[0];
      x[1] = rest[1];
    }
  }
}

}  // namespace quire::kernel::QUIRE_ISA_NS

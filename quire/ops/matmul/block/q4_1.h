#pragma once

// Q4_1. File: f16 d, f16 m, then 16 bytes; byte j holds columns j (low nibble) and j + 16 (high).
// value = d·q + m. Panel: d of 16 rows, m of 16 rows (f16), then 4 × 64 bytes; byte 4r + j of quad
// q holds column 4q + j (low nibble) and 4q + j + 16 (high) of row r.

#include "quire/ops/matmul/block/integer.h"
#include "quire/ops/matmul/matmul_kernel.h"

namespace quire::kernel::QUIRE_ISA_NS {

struct BlockQ4_1 {
  static constexpr PanelFormat kFormat{32, 20, 320, true};
  static constexpr int kZero = 0;
  // Up to so many rows of input, unpacking each time costs less than keeping what was unpacked.
  static constexpr std::int64_t kFewRows = 16;
  static constexpr bool kHasMinimum = true;

  static void pack_block(const std::byte* block, int row, std::byte* panel) {
    __builtin_memcpy(panel + 2 * row, block, 2);
    __builtin_memcpy(panel + 32 + 2 * row, block + 2, 2);
    for (int q = 0; q < 4; ++q)
      __builtin_memcpy(panel + 64 + 64 * q + 4 * row, block + 4 + 4 * q, 4);
  }
  QUIRE_INLINE void unpack(const std::byte* panel, Integers& out) {
    out.scale = load_f16(panel);
    out.minimum = load_f16(panel + 32);
    for (int q = 0; q < 4; ++q) {
      const Bytes both = load_bytes(panel + 64 + 64 * q);
      out.quads[q] = low_nibbles(both);
      out.quads[q + 4] = high_nibbles(both);
    }
  }
};

}  // namespace quire::kernel::QUIRE_ISA_NS

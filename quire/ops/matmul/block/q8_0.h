#pragma once

// Q8_0. File: f16 d, then 32 signed bytes. value = d·q.
// Panel: d of 16 rows (f16), then 8 × 64 bytes; byte 4r + j of quad q holds column 4q + j of row r,
// plus 128: the integer dot product wants one unsigned side.

#include "quire/ops/matmul/block/integer.h"
#include "quire/ops/matmul/matmul_kernel.h"

namespace quire::kernel::QUIRE_ISA_NS {

struct BlockQ8_0 {
  static constexpr PanelFormat kFormat{32, 34, 544, true};
  static constexpr int kZero = 128;
  // Up to so many rows of input, unpacking each time costs less than keeping what was unpacked.
  static constexpr std::int64_t kFewRows = 64;
  static constexpr bool kHasMinimum = false;

  static void pack_block(const std::byte* block, int row, std::byte* panel) {
    __builtin_memcpy(panel + 2 * row, block, 2);
    for (int q = 0; q < 8; ++q) {
      std::uint32_t four;
      __builtin_memcpy(&four, block + 2 + 4 * q, 4);
      four ^= 0x80808080u;
      __builtin_memcpy(panel + 32 + 64 * q + 4 * row, &four, 4);
    }
  }
  QUIRE_INLINE void unpack(const std::byte* panel, Integers& out) {
    out.scale = load_f16(panel);
    out.minimum = zero();
    for (int q = 0; q < 8; ++q) out.quads[q] = load_bytes(panel + 32 + 64 * q);
  }
};

}  // namespace quire::kernel::QUIRE_ISA_NS

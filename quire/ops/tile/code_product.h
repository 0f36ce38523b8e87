#pragma once

// The register tile of numbers in 8 bits: T rows of codes times 64 columns, whole numbers.

#include <cstdint>

#include "quire/base/simd.h"

namespace quire::kernel::QUIRE_ISA_NS {

/// T rows of `width` signed codes, a multiple of 16, one behind the other. Codes of columns lie
/// [width / 4, 64, 4], plus 128, as dot4 wants them; offset_T, 128 times the sum of a row's codes,
/// undoes that: sums[t][p] are the products with columns 16p … 16p + 15.
template <int T>
QUIRE_INLINE void code_products(const std::int8_t* rows, const std::int32_t* offset_T,
                                std::int64_t width, const std::uint8_t* columns, I32 (*sums)[4]) {
#pragma GCC unroll 4
  for (int t = 0; t < T; ++t) {
    const I32 start = set1_i32(-offset_T[t]);
#pragma GCC unroll 4
    for (int p = 0; p < 4; ++p) sums[t][p] = start;
  }
  // Four steps at a time: GCC copies every accumulator once for each turn of the loop.
  for (std::int64_t k = 0; k < width; k += 16, columns += 1024) {
#pragma GCC unroll 4
    for (int q = 0; q < 4; ++q) {
      Bytes column[4];
#pragma GCC unroll 4
      for (int p = 0; p < 4; ++p) column[p] = load_bytes(columns + 256 * q + 64 * p);
#pragma GCC unroll 4
      for (int t = 0; t < T; ++t) {
        const Bytes row = repeat4(rows + t * width + k + 4 * q);
#pragma GCC unroll 4
        for (int p = 0; p < 4; ++p) sums[t][p] = dot4(sums[t][p], column[p], row);
      }
    }
  }
}

}  // namespace quire::kernel::QUIRE_ISA_NS

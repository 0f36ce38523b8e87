#pragma once

// Register tiles of products whose 64 columns were packed: T rows of floats times P vectors of 16
// columns, as in panel_product.h, one chain of FMAs for each output.

#include "quire/ops/tile/panel_product.h"

namespace quire::kernel::QUIRE_ISA_NS {

/// Floats of a packed row.
inline constexpr std::int64_t kPackedColumns = 64;

/// Memory that is asked for while a tile computes: `kLines` addresses a step, `line` bytes apart.
struct Ahead {
  const std::byte* at;
  std::int64_t step, line;  // bytes
};

/// acc[t][p] += Σ_d x[t][d] · packed[d][p], d < count; packed rows hold kPackedColumns floats.
template <int T, int P, int kLines>
QUIRE_INLINE void packed_product(Accumulators<T, P>& acc, const Array<const float*, T>& x,
                                 const float* packed, std::int64_t count, Ahead ahead) {
  for (std::int64_t d = 0; d < count; ++d, packed += kPackedColumns) {
    Array<F32, P> column;
#pragma GCC unroll 4
    for (int p = 0; p < P; ++p) column[p] = load(packed + 16 * p);
    if constexpr (kLines > 0) {
#pragma GCC unroll 4
      for (int line = 0; line < kLines; ++line) prefetch(ahead.at + line * ahead.line);
      ahead.at += ahead.step;
    }
#pragma GCC unroll 6
    for (int t = 0; t < T; ++t) {
      const F32 xt = set1(x[t][d]);
#pragma GCC unroll 4
      for (int p = 0; p < P; ++p) acc[t][p] = fma(column[p], xt, acc[t][p]);
    }
  }
}

/// acc[t][p] += Σ_n x[n][at + t] · packed[n][p], n < count: the product with a transposed left
/// side, whose rows lie anywhere.
template <int T, int P>
QUIRE_INLINE void packed_outer(Accumulators<T, P>& acc, const float* const* x, std::int64_t at,
                               const float* packed, std::int64_t count) {
  for (std::int64_t n = 0; n < count; ++n, packed += kPackedColumns) {
    const float* row = x[n] + at;
    Array<F32, P> column;
#pragma GCC unroll 4
    for (int p = 0; p < P; ++p) column[p] = load(packed + 16 * p);
#pragma GCC unroll 6
    for (int t = 0; t < T; ++t) {
      const F32 xt = set1(row[t]);
#pragma GCC unroll 4
      for (int p = 0; p < P; ++p) acc[t][p] = fma(column[p], xt, acc[t][p]);
    }
  }
}

}  // namespace quire::kernel::QUIRE_ISA_NS

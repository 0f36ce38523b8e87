#pragma once

// The two kinds of products of the backward kernel: rows by the keys of a unit, and sums over rows
// of what they owe to each key. Every number is one chain of FMAs, however rows are grouped.

#include "quire/base/simd.h"
#include "quire/ops/attention/attention_backward_kernel.h"
#include "quire/ops/tile/panel_product.h"

namespace quire::kernel::QUIRE_ISA_NS {

/// Calls f(row, Constant<R>) with up to `Most` rows at a time.
template <int Most, class F>
QUIRE_INLINE void strips(std::int64_t count, F&& f) {
  std::int64_t row = 0;
  for (; row + Most <= count; row += Most) f(row, Constant<Most>{});
  if (row + 3 <= count) {
    f(row, Constant<3>{});
    row += 3;
  }
  for (; row < count; ++row) f(row, Constant<1>{});
}

/// Calls f(column, Constant<P>) with 4 vectors at a time, then with one.
template <class F>
QUIRE_INLINE void columns(std::int64_t width, F&& f) {
  std::int64_t k = 0;
  for (; k + 64 <= width; k += 64) f(k, Constant<4>{});
  for (; k < width; k += 16) f(k, Constant<1>{});
}

/// out[row][lane] = Σ_d x[row][d] · blocks(lane, d).
inline void products(const float* x, std::int64_t stride, std::int64_t count, const float* blocks,
                     std::int64_t depth, int lanes, float* out) {
  columns((lanes + 15) / 16 * 16, [&](std::int64_t lane, auto vectors) {
    constexpr int P = decltype(vectors)::kValue;
    const auto* w = reinterpret_cast<const std::byte*>(blocks + lane * depth);
    strips<6>(count, [&](std::int64_t row, auto rows) {
      constexpr int R = decltype(rows)::kValue;
      Array<const float*, R> from;
      for (int r = 0; r < R; ++r) from[r] = x + (row + r) * stride;
      Accumulators<R, P> acc;
      clear<R, P>(acc);
      panel_product<LoadF32, R, P>(acc, from, w, 64 * depth, 64, 0, depth);
      for (int r = 0; r < R; ++r)
        for (int p = 0; p < P; ++p) store(out + (row + r) * kUnitKeys + lane + 16 * p, acc[r][p]);
    });
  });
}

/// out[lane][column] += Σ_row x[row][lane] · y[row][column], rows in their order.
template <int R, int P>
QUIRE_INLINE void outer_tile(const float* x, const float* y, std::int64_t width, std::int64_t count,
                             float* out) {
  Accumulators<R, P> acc;
  for (int r = 0; r < R; ++r)
    for (int p = 0; p < P; ++p) acc[r][p] = load(out + r * width + 16 * p);
  for (std::int64_t row = 0; row < count; ++row, x += kUnitKeys, y += width) {
    Array<F32, P> column;
#pragma GCC unroll 4
    for (int p = 0; p < P; ++p) column[p] = load(y + 16 * p);
#pragma GCC unroll 4
    for (int r = 0; r < R; ++r) {
      const F32 xr = set1(x[r]);
#pragma GCC unroll 4
      for (int p = 0; p < P; ++p) acc[r][p] = fma(column[p], xr, acc[r][p]);
    }
  }
  for (int r = 0; r < R; ++r)
    for (int p = 0; p < P; ++p) store(out + r * width + 16 * p, acc[r][p]);
}

/// The same for all lanes and columns. Lanes behind the last one are zeros.
inline void outer_products(const float* x, const float* y, std::int64_t width, std::int64_t count,
                           int lanes, float* out) {
  columns(width, [&](std::int64_t k, auto vectors) {
    constexpr int P = decltype(vectors)::kValue;
    for (int lane = 0; lane < lanes; lane += 4)
      outer_tile<4, P>(x + lane, y + k, width, count, out + lane * width + k);
  });
}

}  // namespace quire::kernel::QUIRE_ISA_NS

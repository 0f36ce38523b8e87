// The nearest of M rows for 64 keys at once, compiled once per instruction set: keys are the
// packed columns of a register tile, and each lane keeps its best, so that nothing is reduced
// across lanes.

#include "quire/base/simd.h"
#include "quire/ops/merge/key_tile.h"
#include "quire/ops/merge/nearest_anchor_kernel.h"
#include "quire/ops/tile/gemm_tile.h"

namespace quire::kernel::QUIRE_ISA_NS {
namespace {

struct Best {
  F32 value[4], row[4];
};

/// Anchors [m, m + T): strictly greater, so that of equal ones the first stays.
template <int T>
QUIRE_INLINE void compare(Best& best, const float* unit, std::int64_t K, std::int64_t m,
                          const float* columns) {
  Array<const float*, T> rows;
  for (int t = 0; t < T; ++t) rows[t] = unit + (m + t) * K;
  Accumulators<T, 4> acc;
  clear<T, 4>(acc);
  packed_product<T, 4, 0>(acc, rows, columns, K, Ahead{});
#pragma GCC unroll 6
  for (int t = 0; t < T; ++t) {
    const F32 row = set1(static_cast<float>(m + t));
#pragma GCC unroll 4
    for (int p = 0; p < 4; ++p) {
      best.row[p] = select_less(best.value[p], acc[t][p], row, best.row[p]);
      best.value[p] = select_less(best.value[p], acc[t][p], acc[t][p], best.value[p]);
    }
  }
}

}  // namespace

void nearest_anchor_span(const NearestAnchorArgs<float>& args, std::int64_t g, std::int64_t slot,
                         int count, float* scratch) {
  const std::int64_t K = args.kv.K;
  load_key_columns(args.kv, {args.b, g, slot, count}, scratch);
  Best best;
  F32 square[4];
  for (int p = 0; p < 4; ++p) {
    best.value[p] = set1(-__builtin_inff());
    best.row[p] = zero();
    square[p] = zero();
  }
  for (std::int64_t k = 0; k < K; ++k) {
    for (int p = 0; p < 4; ++p) {
      const F32 x = load(scratch + k * kPackedColumns + 16 * p);
      square[p] = fma(x, x, square[p]);
    }
  }
  const float* unit = args.unit_GMK + g * args.M * K;
  std::int64_t m = 0;
  for (; m + 6 <= args.M; m += 6) compare<6>(best, unit, K, m, scratch);
  for (; m < args.M; ++m) compare<1>(best, unit, K, m, scratch);
  alignas(64) float value[64], row[64], length[64];
  for (int p = 0; p < 4; ++p) {
    store(value + 16 * p, best.value[p]);
    store(row + 16 * p, best.row[p]);
    store(length + 16 * p, sqrt(square[p]));
  }
  const std::int64_t at = g * args.S + slot;
  for (int i = 0; i < count; ++i) {
    args.group_GS[at + i] = static_cast<std::int64_t>(row[i]);
    // Nothing was greater than −inf: the key is not finite.
    const float cosine = value[i] == -__builtin_inff() ? __builtin_nanf("") : value[i] / length[i];
    args.cosine_GS[at + i] = length[i] == 0.0f ? 0.0f : cosine;
  }
}

}  // namespace quire::kernel::QUIRE_ISA_NS

// How many members the best clusters have, compiled once per instruction set.

#include "quire/base/simd.h"
#include "quire/ops/search/select_clusters_kernel.h"

namespace quire::kernel::QUIRE_ISA_NS {

float size_from_rank(const float* rank, const float* size, std::int64_t n, float least) {
  const F32 border = set1(least);
  F32 sums[4] = {zero(), zero(), zero(), zero()};
  for (std::int64_t i = 0; i < n; i += 64)
    for (int j = 0; j < 4; ++j) {
      const std::int64_t at = i + 16 * j;
      sums[j] = add(sums[j], select_less(load(rank + at), border, zero(), load(size + at)));
    }
  return reduce_add(add(add(sums[0], sums[1]), add(sums[2], sums[3])));
}

float plain_ranks(const float* from, std::int64_t n, float* rank) {
  const F32 lowest = set1(-__builtin_inff());
  F32 highest = lowest;
  for (std::int64_t i = 0; i < n; i += 16) {
    const int left = n - i < 16 ? static_cast<int>(n - i) : 16;
    // (The second operand where the first is NaN.)
    const F32 x = keep_lanes(max(load_first(from + i, left), lowest), 0, left, lowest);
    highest = max(x, highest);
    store(rank + i, x);
  }
  return reduce_max(highest);
}

std::int64_t mark_ranks(const RankBorders& borders, const float* rank, const float* size,
                        std::int64_t n, std::uint8_t* taken, std::int32_t* near) {
  const F32 below = set1(borders.below), least = set1(borders.least), one = set1(1.0f);
  std::int64_t count = 0;
  for (std::int64_t i = 0; i < n; i += 16) {
    const F32 x = load(rank + i), filled = select_less(zero(), load(size + i), one, zero());
    store_i8(taken + i, select_less(below, x, filled, zero()));
    const F32 close = select_less(x, least, zero(), select_less(below, x, zero(), filled));
    if (reduce_max(close) == 0.0f) continue;
    alignas(64) float lane[16];
    store(lane, close);
    for (int j = 0; j < 16; ++j)
      if (lane[j] != 0.0f) near[count++] = static_cast<std::int32_t>(i + j);
  }
  return count;
}

}  // namespace quire::kernel::QUIRE_ISA_NS

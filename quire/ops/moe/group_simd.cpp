#include "quire/base/simd.h"
#include "quire/ops/moe/group_kernel.h"

namespace quire::kernel::QUIRE_ISA_NS {

void combine_row(const CombineRow& a) {
  for (std::int64_t d = 0; d < a.D; d += 16) {
    const int lanes = static_cast<int>(a.D - d < 16 ? a.D - d : 16);
    F32 sum = zero();
    for (std::int64_t c = 0; c < a.C; ++c) {
      const F32 row = load_first(a.rows[c] + d, lanes);
      if (a.factor == nullptr) {
        sum = c == 0 ? row : add(sum, row);
      } else {
        sum = c == 0 ? mul(row, set1(a.factor[c])) : fma(row, set1(a.factor[c]), sum);
      }
    }
    store_first(a.out + d, sum, lanes);
  }
}

float row_dot(const float* a, const float* b, std::int64_t D) {
  F32 sum = zero();
  std::int64_t d = 0;
  for (; d + 16 <= D; d += 16) sum = fma(load(a + d), load(b + d), sum);
  const int rest = static_cast<int>(D - d);
  if (rest > 0) sum = fma(load_first(a + d, rest), load_first(b + d, rest), sum);
  return reduce_add(sum);
}

}  // namespace quire::kernel::QUIRE_ISA_NS

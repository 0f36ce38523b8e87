#include "quire/base/simd.h"
#include "quire/ops/math/rms_norm_kernel.h"

namespace quire::kernel::QUIRE_ISA_NS {

// Four accumulators of 16 lanes: each lane adds few squares, so the sum is far more exact than a
// plain loop's, and the additions of one block do not wait for each other.
QUIRE_INLINE float sum_of_squares(const float* x, std::int64_t n) {
  F32 sums[4] = {zero(), zero(), zero(), zero()};
  std::int64_t d = 0;
  for (; d + 64 <= n; d += 64) {
    for (int j = 0; j < 4; ++j) {
      const F32 value = load(x + d + 16 * j);
      sums[j] = fma(value, value, sums[j]);
    }
  }
  for (int j = 0; d < n; ++j, d += 16) {
    const F32 value = load_first(x + d, static_cast<int>(n - d < 16 ? n - d : 16));
    sums[j] = fma(value, value, sums[j]);
  }
  return reduce_add(add(add(sums[0], sums[1]), add(sums[2], sums[3])));
}

void rms_norm_rows(const RmsNorm& args, std::int64_t begin, std::int64_t end) {
  const std::int64_t D = args.D;
  for (std::int64_t n = begin; n < end; ++n) {
    const float* x = args.x_ND + n * D;
    float* out = args.out_ND + n * D;
    const double mean = static_cast<double>(sum_of_squares(x, D)) / static_cast<double>(D);
    const F32 scale = set1(static_cast<float>(1 / __builtin_sqrt(mean + args.epsilon)));
    for (std::int64_t d = 0; d < D; d += 16) {
      const int lanes = static_cast<int>(D - d < 16 ? D - d : 16);
      const F32 scaled = mul(load_first(x + d, lanes), scale);
      store_first(out + d, mul(scaled, load_first(args.weight_D + d, lanes)), lanes);
    }
  }
}

}  // namespace quire::kernel::QUIRE_ISA_NS

// Bounds of pages and what queries make of them, compiled once per instruction set.

#include "quire/base/simd.h"
#include "quire/ops/merge/key_tile.h"
#include "quire/ops/search/page_bounds_kernel.h"

namespace quire::kernel::QUIRE_ISA_NS {

void bound_page(const PageBoundsArgs& args, std::int64_t g, std::int64_t p, float* scratch) {
  const std::int64_t K = args.kv.K, begin = p * args.page_tokens;
  const std::int64_t end = args.S - begin < args.page_tokens ? args.S : begin + args.page_tokens;
  float *least = args.least_GPK + (g * args.P + p) * K,
        *most = args.most_GPK + (g * args.P + p) * K;
  for (std::int64_t k = 0; k < K; ++k) {
    least[k] = __builtin_inff();
    most[k] = -__builtin_inff();
  }
  // Blocks begin at multiples of 16.
  for (std::int64_t slot = begin / 16 * 16; slot < end; slot += 64) {
    const std::int64_t count = args.S - slot < 64 ? args.S - slot : 64;
    load_key_rows(args.kv, {args.b, g, slot, static_cast<int>(count)}, scratch);
    for (std::int64_t s = slot < begin ? begin : slot; s < slot + count && s < end; ++s) {
      const float* row = scratch + (s - slot) * K;
      for (std::int64_t k = 0; k < K; k += 16) {
        const int left = K - k < 16 ? static_cast<int>(K - k) : 16;
        const F32 x = load_first(row + k, left);
        // In this order a NaN in x leaves what stands.
        store_first(least + k, min(x, load_first(least + k, left)), left);
        store_first(most + k, max(x, load_first(most + k, left)), left);
      }
    }
  }
}

void bound_row(const PageBoundScores& args, std::int64_t row) {
  const std::int64_t g = row % args.H / (args.H / args.G), K = args.K;
  const float* q = args.q_NHK + row * K;
  for (std::int64_t p = 0; p < args.P; ++p) {
    const float *least = args.least_GPK + (g * args.P + p) * K,
                *most = args.most_GPK + (g * args.P + p) * K;
    F32 sum = zero();
    for (std::int64_t k = 0; k < K; k += 16) {
      const int left = K - k < 16 ? static_cast<int>(K - k) : 16;
      const F32 x = load_first(q + k, left);
      sum = add(sum, max(mul(x, load_first(least + k, left)), mul(x, load_first(most + k, left))));
    }
    args.out_NHP[row * args.P + p] = args.scale * reduce_add(sum);
  }
}

}  // namespace quire::kernel::QUIRE_ISA_NS

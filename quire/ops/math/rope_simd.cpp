#include "quire/base/simd.h"
#include "quire/ops/math/rope_kernel.h"

namespace quire::kernel::QUIRE_ISA_NS {

// Half-split pairs lie in two runs: 16 pairs at a time.
QUIRE_INLINE void turn_halves(float* a, float* b, const float* cosine, const float* sine,
                              const Rope& args) {
  const std::int64_t pairs = args.pairs;
  const F32 cosine_factor = set1(args.cosine_factor), sine_factor = set1(args.sine_factor);
  for (std::int64_t i = 0; i < pairs; i += 16) {
    const int lanes = static_cast<int>(pairs - i < 16 ? pairs - i : 16);
    const F32 x = load_first(a + i, lanes), y = load_first(b + i, lanes);
    const F32 c = mul(load_first(cosine + i, lanes), cosine_factor);
    const F32 s = mul(load_first(sine + i, lanes), sine_factor);
    store_first(a + i, sub(mul(x, c), mul(y, s)), lanes);
    store_first(b + i, add(mul(x, s), mul(y, c)), lanes);
  }
}

// Neighbouring pairs: the compiler shuffles a plain loop better than masked loads would.
QUIRE_INLINE void turn_neighbours(float* __restrict x, const float* __restrict cosine,
                                  const float* __restrict sine, const Rope& args) {
  const float cosine_factor = args.cosine_factor, sine_factor = args.sine_factor;
  for (std::int64_t i = 0; i < args.pairs; ++i) {
    const float a = x[2 * i], b = x[2 * i + 1];
    const float c = cosine[i] * cosine_factor, s = sine[i] * sine_factor;
    x[2 * i] = a * c - b * s;
    x[2 * i + 1] = a * s + b * c;
  }
}

void rope_rows(const Rope& args, std::int64_t begin, std::int64_t end) {
  for (std::int64_t n = begin; n < end; ++n) {
    const float* cosine = args.turns_N[n];
    const float* sine = cosine + args.pairs;
    for (std::int64_t h = 0; h < args.H; ++h) {
      float* x = args.x_NHK + n * args.row_stride + h * args.head_stride;
      if (args.mate == 1) {  // with one pair both layouts are the same
        turn_neighbours(x, cosine, sine, args);
      } else {
        turn_halves(x, x + args.mate, cosine, sine, args);
      }
    }
  }
}

}  // namespace quire::kernel::QUIRE_ISA_NS

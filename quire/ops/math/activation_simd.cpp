#include "quire/base/simd.h"
#include "quire/ops/math/activation_kernel.h"

namespace quire::kernel::QUIRE_ISA_NS {

// g / (1 + e^−g), written with e^−|g|, which cannot overflow: for g < 0 both sides are multiplied
// by e^g.
QUIRE_INLINE F32 silu(F32 g) {
  const F32 e = exp(sub(zero(), abs(g)));
  const F32 one = set1(1.0f);
  return div(mul(g, select_less(g, zero(), e, one)), add(one, e));
}

void swiglu_range(const Swiglu& args, std::int64_t begin, std::int64_t end) {
  std::int64_t i = begin;
  for (; i + 16 <= end; i += 16) {
    store(args.out_N + i, mul(silu(load(args.gate_N + i)), load(args.up_N + i)));
  }
  const int rest = static_cast<int>(end - i);
  if (rest == 0) return;
  const F32 gate = load_first(args.gate_N + i, rest), up = load_first(args.up_N + i, rest);
  store_first(args.out_N + i, mul(silu(gate), up), rest);
}

}  // namespace quire::kernel::QUIRE_ISA_NS

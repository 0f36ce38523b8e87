#include "quire/base/simd.h"
#include "quire/ops/moe/expert_activation_formula.h"
#include "quire/ops/moe/expert_activation_kernel.h"

namespace quire::kernel::QUIRE_ISA_NS {
namespace {

struct VectorMath {
  using V = F32;
  QUIRE_INLINE V set(double x) { return set1(static_cast<float>(x)); }
  QUIRE_INLINE V add(V x, V y) { return QUIRE_ISA_NS::add(x, y); }
  QUIRE_INLINE V sub(V x, V y) { return QUIRE_ISA_NS::sub(x, y); }
  QUIRE_INLINE V mul(V x, V y) { return QUIRE_ISA_NS::mul(x, y); }
  // A NaN in x stays one.
  QUIRE_INLINE V min(V x, V y) { return QUIRE_ISA_NS::min(y, x); }
  QUIRE_INLINE V max(V x, V y) { return QUIRE_ISA_NS::max(y, x); }
  QUIRE_INLINE V if_less(V x, V y, V yes, V no) { return select_less(x, y, yes, no); }
  // Written with e^−|x|, which cannot overflow.
  QUIRE_INLINE V sigmoid(V x) {
    const V e = exp(QUIRE_ISA_NS::sub(zero(), abs(x)));
    return div(select_less(x, zero(), e, set1(1.0f)), QUIRE_ISA_NS::add(set1(1.0f), e));
  }
};

/// 16 pairs from `from` numbers on, or what is left of them.
struct GatePairs {
  F32 a, b;
};

QUIRE_INLINE GatePairs read_pairs(const ActivationRows& args, const float* row, std::int64_t f,
                                  int lanes) {
  if (!args.pairs) return {load_first(row + f, lanes), zero()};
  if (args.layout == PairLayout::kHalves)
    return {load_first(row + f, lanes), load_first(row + args.F + f, lanes)};
  alignas(64) float a[16] = {}, b[16] = {};
  for (int i = 0; i < lanes; ++i) {
    a[i] = row[2 * (f + i)];
    b[i] = row[2 * (f + i) + 1];
  }
  return {load(a), load(b)};
}

QUIRE_INLINE void write_pairs(const ActivationRows& args, float* row, std::int64_t f, int lanes,
                              GatePairs value) {
  if (!args.pairs) return store_first(row + f, value.a, lanes);
  if (args.layout == PairLayout::kHalves) {
    store_first(row + f, value.a, lanes);
    return store_first(row + args.F + f, value.b, lanes);
  }
  alignas(64) float a[16], b[16];
  store(a, value.a);
  store(b, value.b);
  for (int i = 0; i < lanes; ++i) {
    row[2 * (f + i)] = a[i];
    row[2 * (f + i) + 1] = b[i];
  }
}

}  // namespace

void activation_row(const ActivationRows& args, std::int64_t m) {
  const std::int64_t width = args.pairs ? 2 * args.F : args.F;
  const float* pre = static_cast<const float*>(args.pre) + m * width;
  for (std::int64_t f = 0; f < args.F; f += 16) {
    const int lanes = static_cast<int>(args.F - f < 16 ? args.F - f : 16);
    const GatePairs in = read_pairs(args, pre, f, lanes);
    if (args.dout == nullptr) {
      store_first(static_cast<float*>(args.out) + m * args.F + f,
                  activation_value<VectorMath>(args.kind, in.a, in.b, args.limit, args.alpha),
                  lanes);
      continue;
    }
    const F32 dout = load_first(static_cast<const float*>(args.dout) + m * args.F + f, lanes);
    const Slopes<F32> slopes =
        activation_slopes<VectorMath>(args.kind, in.a, in.b, args.limit, args.alpha);
    write_pairs(args, static_cast<float*>(args.out) + m * width, f, lanes,
                {mul(dout, slopes.a), mul(dout, slopes.b)});
  }
}

}  // namespace quire::kernel::QUIRE_ISA_NS

#include "quire/base/simd.h"
#include "quire/ops/index/scatter_kernel.h"

namespace quire::kernel::QUIRE_ISA_NS {

// Rows lie anywhere in memory: the processor cannot guess the next one, so it is told.
inline constexpr std::int64_t kAhead = 8;

QUIRE_INLINE void prefetch_row(const float* row, std::int64_t D) {
  for (std::int64_t d = 0; d < D && d < 256; d += 16) __builtin_prefetch(row + d);
}

// x where it is beyond acc, or NaN; else acc, so that a NaN stays from either side and the first of
// equal extremes stays.
QUIRE_INLINE F32 keep_max(F32 acc, F32 x) {
#if defined(QUIRE_ISA_avx512)
  const __mmask16 take = static_cast<__mmask16>(_mm512_cmp_ps_mask(acc.v, x.v, _CMP_LT_OQ) |
                                                _mm512_cmp_ps_mask(x.v, x.v, _CMP_UNORD_Q));
  return {_mm512_mask_blend_ps(take, acc.v, x.v)};
#else
  for (int i = 0; i < 16; ++i) {
    if (x.v[i] > acc.v[i] || x.v[i] != x.v[i]) acc.v[i] = x.v[i];
  }
  return acc;
#endif
}
QUIRE_INLINE F32 keep_min(F32 acc, F32 x) {
#if defined(QUIRE_ISA_avx512)
  const __mmask16 take = static_cast<__mmask16>(_mm512_cmp_ps_mask(x.v, acc.v, _CMP_LT_OQ) |
                                                _mm512_cmp_ps_mask(x.v, x.v, _CMP_UNORD_Q));
  return {_mm512_mask_blend_ps(take, acc.v, x.v)};
#else
  for (int i = 0; i < 16; ++i) {
    if (x.v[i] < acc.v[i] || x.v[i] != x.v[i]) acc.v[i] = x.v[i];
  }
  return acc;
#endif
}

struct Sum {
  QUIRE_INLINE F32 identity() { return zero(); }
  QUIRE_INLINE F32 combine(F32 acc, F32 x) { return add(acc, x); }
};
struct Prod {
  QUIRE_INLINE F32 identity() { return set1(1.0f); }
  QUIRE_INLINE F32 combine(F32 acc, F32 x) { return mul(acc, x); }
};
struct Amax {
  QUIRE_INLINE F32 identity() { return set1(-__builtin_inff()); }
  QUIRE_INLINE F32 combine(F32 acc, F32 x) { return keep_max(acc, x); }
};
struct Amin {
  QUIRE_INLINE F32 identity() { return set1(__builtin_inff()); }
  QUIRE_INLINE F32 combine(F32 acc, F32 x) { return keep_min(acc, x); }
};

template <class Op>
QUIRE_INLINE void combine_row(float* out, const float* src, std::int64_t D, bool fresh, bool scaled,
                              F32 alpha) {
  for (std::int64_t d = 0; d < D; d += 16) {
    const int lanes = static_cast<int>(D - d < 16 ? D - d : 16);
    F32 x = lanes == 16 ? load(src + d) : load_first(src + d, lanes);
    if (scaled) x = mul(alpha, x);
    const F32 acc = fresh         ? Op::identity()
                    : lanes == 16 ? load(out + d)
                                  : load_first(out + d, lanes);
    if (lanes == 16) {
      store(out + d, Op::combine(acc, x));
    } else {
      store_first(out + d, Op::combine(acc, x), lanes);
    }
  }
}

template <class Op>
QUIRE_INLINE void combine_all(const CombineRows& args) {
  const bool scaled = args.alpha != 1.0f;
  const F32 alpha = set1(args.alpha);
  for (std::int64_t k = 0; k < args.count; ++k) {
    if (k + kAhead < args.count) {
      prefetch_row(args.out + args.place[k + kAhead] * args.out_step, args.D);
      prefetch_row(args.src + args.from[k + kAhead] * args.src_step, args.D);
    }
    combine_row<Op>(args.out + args.place[k] * args.out_step,
                    args.src + args.from[k] * args.src_step, args.D,
                    args.fresh != nullptr && args.fresh[k] != 0, scaled, alpha);
  }
}

void combine_rows(const CombineRows& args) {
  switch (args.combine) {
    case Combine::kProd:
      return combine_all<Prod>(args);
    case Combine::kAmax:
      return combine_all<Amax>(args);
    case Combine::kAmin:
      return combine_all<Amin>(args);
    default:
      return combine_all<Sum>(args);
  }
}

// `kVectors` vectors of a place stay in registers while its rows pass by.
template <class Op, int kVectors>
QUIRE_INLINE void fold_columns(const FoldRows& args, std::int64_t d, int last_lanes) {
  const bool scaled = args.alpha != 1.0f;
  const F32 alpha = set1(args.alpha);
  F32 acc[static_cast<std::size_t>(kVectors)];
  for (std::int64_t v = 0; v < kVectors; ++v) {
    const int lanes = v == kVectors - 1 ? last_lanes : 16;
    acc[v] = args.init == nullptr ? Op::identity() : load_first(args.init + d + 16 * v, lanes);
  }
  for (std::int64_t k = 0; k < args.count; ++k) {
    if (args.from + k + kAhead < args.from_end)
      prefetch_row(args.src + args.from[k + kAhead] * args.src_step + d, 16 * kVectors);
    const float* row = args.src + args.from[k] * args.src_step + d;
    for (std::int64_t v = 0; v < kVectors; ++v) {
      const int lanes = v == kVectors - 1 ? last_lanes : 16;
      F32 x = load_first(row + 16 * v, lanes);
      if (scaled) x = mul(alpha, x);
      acc[v] = Op::combine(acc[v], x);
    }
  }
  for (std::int64_t v = 0; v < kVectors; ++v) {
    const int lanes = v == kVectors - 1 ? last_lanes : 16;
    if (args.combine == Combine::kMean) acc[v] = div(acc[v], set1(args.divisor));
    store_first(args.out + d + 16 * v, acc[v], lanes);
  }
}

template <class Op>
QUIRE_INLINE void fold_all(const FoldRows& args) {
  std::int64_t d = 0;
  for (; d + 128 <= args.D; d += 128) fold_columns<Op, 8>(args, d, 16);
  for (; d + 64 <= args.D; d += 64) fold_columns<Op, 4>(args, d, 16);
  for (; d < args.D; d += 16)
    fold_columns<Op, 1>(args, d, static_cast<int>(args.D - d < 16 ? args.D - d : 16));
}

void fold_rows(const FoldRows& args) {
  switch (args.combine) {
    case Combine::kProd:
      return fold_all<Prod>(args);
    case Combine::kAmax:
      return fold_all<Amax>(args);
    case Combine::kAmin:
      return fold_all<Amin>(args);
    default:
      return fold_all<Sum>(args);
  }
}

}  // namespace quire::kernel::QUIRE_ISA_NS

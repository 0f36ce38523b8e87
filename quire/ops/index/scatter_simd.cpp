#include "quire/ops/index/fetch_ahead.h"
#include "quire/ops/index/scatter_kernel.h"

namespace quire::kernel::QUIRE_ISA_NS {

inline constexpr std::int64_t kFloat = sizeof(float);

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

// combine_one is one instruction where x is known not to be NaN.
struct Sum {
  QUIRE_INLINE float combine_one(float acc, float x) { return acc + x; }
  QUIRE_INLINE float identity_one() { return 0.0f; }
  QUIRE_INLINE F32 identity() { return zero(); }
  QUIRE_INLINE F32 combine(F32 acc, F32 x) { return add(acc, x); }
};
struct Prod {
  QUIRE_INLINE float combine_one(float acc, float x) { return acc * x; }
  QUIRE_INLINE float identity_one() { return 1.0f; }
  QUIRE_INLINE F32 identity() { return set1(1.0f); }
  QUIRE_INLINE F32 combine(F32 acc, F32 x) { return mul(acc, x); }
};
struct Amax {
  QUIRE_INLINE float combine_one(float acc, float x) { return x > acc ? x : acc; }
  QUIRE_INLINE float identity_one() { return -__builtin_inff(); }
  QUIRE_INLINE F32 identity() { return set1(-__builtin_inff()); }
  QUIRE_INLINE F32 combine(F32 acc, F32 x) { return keep_max(acc, x); }
};
struct Amin {
  QUIRE_INLINE float combine_one(float acc, float x) { return x < acc ? x : acc; }
  QUIRE_INLINE float identity_one() { return __builtin_inff(); }
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
  const std::int64_t ahead = rows_ahead(args.D * kFloat);
  for (std::int64_t k = 0; k < args.count; ++k) {
    if (k + ahead < args.count) {
      fetch_row(args.out + args.place[k + ahead] * args.out_step, args.D * kFloat);
      fetch_row(args.src + args.from[k + ahead] * args.src_step, args.D * kFloat);
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

// What is left of a block of the index when only one range of places counts.
struct Chosen {
  static constexpr std::int64_t kBlock = 512;
  std::uint32_t place[kBlock + 16];
  float x[kBlock + 16];
  std::int64_t count;
  bool nan;
};

QUIRE_INLINE void choose(Chosen& out, const CombineFloats& args, std::int64_t begin,
                         std::int64_t end) {
  const auto span = static_cast<std::uint64_t>(args.high - args.low);
  out.count = 0;
  out.nan = false;
  std::int64_t n = begin;
#if defined(QUIRE_ISA_avx512)
  const __m512i low = _mm512_set1_epi64(args.low);
  const __m512i size = _mm512_set1_epi64(static_cast<long long>(span));
  __mmask16 nans = 0;
  for (; n + 16 <= end; n += 16) {
    const __m512i a = _mm512_sub_epi64(_mm512_loadu_si512(args.index + n), low);
    const __m512i b = _mm512_sub_epi64(_mm512_loadu_si512(args.index + n + 8), low);
    const __m512i place = _mm512_inserti64x4(_mm512_castsi256_si512(_mm512_cvtepi64_epi32(a)),
                                             _mm512_cvtepi64_epi32(b), 1);
    const auto take = static_cast<__mmask16>(_mm512_cmplt_epu64_mask(a, size) |
                                             _mm512_cmplt_epu64_mask(b, size) << 8);
    const __m512 x = _mm512_loadu_ps(args.src + n);
    nans = static_cast<__mmask16>(nans | _mm512_cmp_ps_mask(x, x, _CMP_UNORD_Q));
    _mm512_storeu_si512(out.place + out.count, _mm512_maskz_compress_epi32(take, place));
    _mm512_storeu_ps(out.x + out.count, _mm512_maskz_compress_ps(take, x));
    out.count += __builtin_popcount(take);
  }
  out.nan = nans != 0;
#endif
  for (; n < end; ++n) {
    const auto place = static_cast<std::uint64_t>(args.index[n] - args.low);
    const float x = args.src[n];
    out.place[out.count] = static_cast<std::uint32_t>(place);
    out.x[out.count] = x;
    out.nan |= x != x;
    out.count += place < span ? 1 : 0;
  }
}

template <class Op>
QUIRE_INLINE void combine_chosen(const Chosen& chosen, const CombineFloats& args) {
  float* out = args.out + args.low;
  if (args.met == nullptr) {
    for (std::int64_t k = 0; k < chosen.count; ++k) {
      float& place = out[chosen.place[k]];
      place = Op::combine_one(place, chosen.x[k]);
    }
    return;
  }
  std::int64_t* met = args.met + args.low;
  for (std::int64_t k = 0; k < chosen.count; ++k) {
    float& place = out[chosen.place[k]];
    const bool first = met[chosen.place[k]]++ == 0 && args.fresh;
    place = Op::combine_one(first ? Op::identity_one() : place, chosen.x[k]);
  }
}

// Rare, and only where an extreme must not lose a NaN.
template <class Op>
void combine_with_nan(const Chosen& chosen, const CombineFloats& args) {
  float* out = args.out + args.low;
  for (std::int64_t k = 0; k < chosen.count; ++k) {
    float& place = out[chosen.place[k]];
    const bool first = args.met != nullptr && args.met[args.low + chosen.place[k]]++ == 0;
    const float x = chosen.x[k];
    place = x != x ? x : Op::combine_one(first && args.fresh ? Op::identity_one() : place, x);
  }
}

template <class Op>
QUIRE_INLINE void combine_floats_of(const CombineFloats& args, bool extreme) {
  // Beyond the second cache each place is fetched before its turn.
  const bool far = args.high - args.low > 1 << 17;
  Chosen chosen;
  for (std::int64_t n = 0; n < args.N; n += Chosen::kBlock) {
    choose(chosen, args, n, args.N - n < Chosen::kBlock ? args.N : n + Chosen::kBlock);
    if (far) {
      for (std::int64_t k = 0; k < chosen.count; ++k)
        __builtin_prefetch(args.out + args.low + chosen.place[k], 1);
    }
    if (extreme && chosen.nan) {
      combine_with_nan<Op>(chosen, args);
    } else {
      combine_chosen<Op>(chosen, args);
    }
  }
}

void combine_floats(const CombineFloats& args) {
  switch (args.combine) {
    case Combine::kProd:
      return combine_floats_of<Prod>(args, false);
    case Combine::kAmax:
      return combine_floats_of<Amax>(args, true);
    case Combine::kAmin:
      return combine_floats_of<Amin>(args, true);
    default:
      return combine_floats_of<Sum>(args, false);
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
  const std::int64_t bytes = (16 * (kVectors - 1) + last_lanes) * kFloat, ahead = rows_ahead(bytes);
  for (std::int64_t k = 0; k < args.count; ++k) {
    if (args.from + k + ahead < args.from_end)
      fetch_row(args.src + args.from[k + ahead] * args.src_step + d, bytes);
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

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

// combine_one is one instruction where x is known not to be NaN, and so is combine_numbers.
struct Sum {
  static constexpr bool kExtreme = false;
  QUIRE_INLINE float combine_one(float acc, float x) { return acc + x; }
  QUIRE_INLINE float identity_one() { return 0.0f; }
  QUIRE_INLINE F32 identity() { return zero(); }
  QUIRE_INLINE F32 combine(F32 acc, F32 x) { return add(acc, x); }
  QUIRE_INLINE F32 combine_numbers(F32 acc, F32 x) { return add(acc, x); }
};
struct Prod {
  static constexpr bool kExtreme = false;
  QUIRE_INLINE float combine_one(float acc, float x) { return acc * x; }
  QUIRE_INLINE float identity_one() { return 1.0f; }
  QUIRE_INLINE F32 identity() { return set1(1.0f); }
  QUIRE_INLINE F32 combine(F32 acc, F32 x) { return mul(acc, x); }
  QUIRE_INLINE F32 combine_numbers(F32 acc, F32 x) { return mul(acc, x); }
};
struct Amax {
  static constexpr bool kExtreme = true;
  QUIRE_INLINE float combine_one(float acc, float x) { return x > acc ? x : acc; }
  QUIRE_INLINE float identity_one() { return -__builtin_inff(); }
  QUIRE_INLINE F32 identity() { return set1(-__builtin_inff()); }
  QUIRE_INLINE F32 combine(F32 acc, F32 x) { return keep_max(acc, x); }
  QUIRE_INLINE F32 combine_numbers(F32 acc, F32 x) { return max(x, acc); }
};
struct Amin {
  static constexpr bool kExtreme = true;
  QUIRE_INLINE float combine_one(float acc, float x) { return x < acc ? x : acc; }
  QUIRE_INLINE float identity_one() { return __builtin_inff(); }
  QUIRE_INLINE F32 identity() { return set1(__builtin_inff()); }
  QUIRE_INLINE F32 combine(F32 acc, F32 x) { return keep_min(acc, x); }
  QUIRE_INLINE F32 combine_numbers(F32 acc, F32 x) { return min(x, acc); }
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

// What is left of a block of the index when only one range of places counts, the hot one apart.
struct Chosen {
  static constexpr std::int64_t kBlock = 512;
  std::uint32_t place[kBlock + 16];
  float x[kBlock + 16], hot[kBlock + 16];
  std::int64_t count, hot_count;
  bool nan;
};

QUIRE_INLINE void choose(Chosen& out, const CombineFloats& args, std::int64_t begin,
                         std::int64_t end) {
  const auto span = static_cast<std::uint64_t>(args.high - args.low);
  const auto hot = static_cast<std::uint64_t>(args.hot - args.low);  // no place where there is none
  out.count = 0;
  out.hot_count = 0;
  out.nan = false;
  std::int64_t n = begin;
#if defined(QUIRE_ISA_avx512)
  const __m512i low = _mm512_set1_epi64(args.low);
  const __m512i size = _mm512_set1_epi64(static_cast<long long>(span));
  const __m512i hot_place = _mm512_set1_epi32(static_cast<int>(hot));
  const __mmask16 any_hot = hot < span ? 0xffff : 0;
  __mmask16 nans = 0;
  for (; n + 16 <= end; n += 16) {
    const __m512i a = _mm512_sub_epi64(_mm512_loadu_si512(args.index + n), low);
    const __m512i b = _mm512_sub_epi64(_mm512_loadu_si512(args.index + n + 8), low);
    const __m512i place = _mm512_inserti64x4(_mm512_castsi256_si512(_mm512_cvtepi64_epi32(a)),
                                             _mm512_cvtepi64_epi32(b), 1);
    auto take = static_cast<__mmask16>(_mm512_cmplt_epu64_mask(a, size) |
                                       _mm512_cmplt_epu64_mask(b, size) << 8);
    const __m512 x = _mm512_loadu_ps(args.src + n);
    nans = static_cast<__mmask16>(nans | _mm512_cmp_ps_mask(x, x, _CMP_UNORD_Q));
    if (any_hot != 0) {
      const __mmask16 heat = _mm512_mask_cmpeq_epi32_mask(take, place, hot_place);
      take = static_cast<__mmask16>(take & ~heat);
      _mm512_storeu_ps(out.hot + out.hot_count, _mm512_maskz_compress_ps(heat, x));
      out.hot_count += __builtin_popcount(heat);
    }
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
    out.hot[out.hot_count] = x;
    out.nan |= x != x;
    out.hot_count += place == hot ? 1 : 0;
    out.count += place < span && place != hot ? 1 : 0;
  }
}

// `careful` where a NaN may come: an extreme must not lose it.
template <class Op>
QUIRE_INLINE float combine_next(float acc, float x, bool careful) {
  return careful && x != x ? x : Op::combine_one(acc, x);
}

template <class Op>
QUIRE_INLINE void combine_hot(const Chosen& chosen, const CombineFloats& args, bool careful) {
  if (chosen.hot_count == 0) return;
  float acc = args.out[args.hot];
  if (args.met != nullptr) {
    if (args.fresh && args.met[args.hot] == 0) acc = Op::identity_one();
    args.met[args.hot] += chosen.hot_count;
  }
  for (std::int64_t k = 0; k < chosen.hot_count; ++k)
    acc = combine_next<Op>(acc, chosen.hot[k], careful);
  args.out[args.hot] = acc;
}

template <class Op>
QUIRE_INLINE void combine_chosen(const Chosen& chosen, const CombineFloats& args, bool careful) {
  float* out = args.out + args.low;
  if (args.met == nullptr) {
    for (std::int64_t k = 0; k < chosen.count; ++k) {
      float& place = out[chosen.place[k]];
      place = combine_next<Op>(place, chosen.x[k], careful);
    }
    return;
  }
  std::int64_t* met = args.met + args.low;
  for (std::int64_t k = 0; k < chosen.count; ++k) {
    float& place = out[chosen.place[k]];
    const bool first = met[chosen.place[k]]++ == 0 && args.fresh;
    place = combine_next<Op>(first ? Op::identity_one() : place, chosen.x[k], careful);
  }
}

// Rare, and never inlined: it would slow the other down.
template <class Op>
[[gnu::noinline]] void combine_with_nan(const Chosen& chosen, const CombineFloats& args) {
  combine_hot<Op>(chosen, args, true);
  combine_chosen<Op>(chosen, args, true);
}

template <class Op>
QUIRE_INLINE void combine_floats_of(const CombineFloats& args) {
  // Beyond the second cache each place is fetched before its turn.
  const bool far = args.high - args.low > 1 << 17;
  Chosen chosen;
  for (std::int64_t n = 0; n < args.N; n += Chosen::kBlock) {
    choose(chosen, args, n, args.N - n < Chosen::kBlock ? args.N : n + Chosen::kBlock);
    if (far) {
      for (std::int64_t k = 0; k < chosen.count; ++k)
        __builtin_prefetch(args.out + args.low + chosen.place[k], 1);
    }
    if (Op::kExtreme && chosen.nan) {
      combine_with_nan<Op>(chosen, args);
    } else {
      combine_hot<Op>(chosen, args, false);
      combine_chosen<Op>(chosen, args, false);
    }
  }
}

void combine_floats(const CombineFloats& args) {
  switch (args.combine) {
    case Combine::kProd:
      return combine_floats_of<Prod>(args);
    case Combine::kAmax:
      return combine_floats_of<Amax>(args);
    case Combine::kAmin:
      return combine_floats_of<Amin>(args);
    default:
      return combine_floats_of<Sum>(args);
  }
}

// Sees whether a NaN came by.
struct Watch {
#if defined(QUIRE_ISA_avx512)
  static constexpr bool kSees = true;
  __mmask16 nans = 0;
  QUIRE_INLINE void look(Watch& watch, F32 x, F32 y) {
    watch.nans = static_cast<__mmask16>(watch.nans | _mm512_cmp_ps_mask(x.v, y.v, _CMP_UNORD_Q));
  }
  QUIRE_INLINE bool saw(const Watch& watch) { return watch.nans != 0; }
#else
  static constexpr bool kSees = false;
  QUIRE_INLINE void look(Watch&, F32, F32) {}
  QUIRE_INLINE bool saw(const Watch&) { return true; }
#endif
};

// `kVectors` vectors of a place stay in registers while its rows pass by. False when they have to
// pass by once more, carefully, because a NaN is among them.
template <class Op, int kVectors, bool kCareful>
QUIRE_INLINE bool fold_vectors(F32* acc, const FoldRows& args, std::int64_t d, int last_lanes) {
  const bool scaled = args.alpha != 1.0f;
  const F32 alpha = set1(args.alpha);
  const std::int64_t bytes = (16 * (kVectors - 1) + last_lanes) * kFloat, ahead = rows_ahead(bytes);
  Watch watch;
  for (std::int64_t k = 0; k < args.count; ++k) {
    if (args.from + k + ahead < args.from_end)
      fetch_row(args.src + args.from[k + ahead] * args.src_step + d, bytes);
    const float* row = args.src + args.from[k] * args.src_step + d;
    F32 x[static_cast<std::size_t>(kVectors)];
    for (std::int64_t v = 0; v < kVectors; ++v) {
      x[v] = load_first(row + 16 * v, v == kVectors - 1 ? last_lanes : 16);
      if (scaled) x[v] = mul(alpha, x[v]);
      acc[v] = kCareful ? Op::combine(acc[v], x[v]) : Op::combine_numbers(acc[v], x[v]);
    }
    if (kCareful || !Op::kExtreme) continue;
    for (std::int64_t v = 0; v < kVectors; v += 2)
      Watch::look(watch, x[v], x[v + 1 < kVectors ? v + 1 : v]);
  }
  return kCareful || !Op::kExtreme || !Watch::saw(watch);
}

template <class Op, int kVectors>
QUIRE_INLINE void begin_columns(F32* acc, const FoldRows& args, std::int64_t d, int last_lanes) {
  for (std::int64_t v = 0; v < kVectors; ++v) {
    const int lanes = v == kVectors - 1 ? last_lanes : 16;
    acc[v] = args.init == nullptr ? Op::identity() : load_first(args.init + d + 16 * v, lanes);
  }
}

template <class Op, int kVectors>
QUIRE_INLINE void fold_columns(const FoldRows& args, std::int64_t d, int last_lanes) {
  constexpr bool kCareful = Op::kExtreme && !Watch::kSees;
  F32 acc[static_cast<std::size_t>(kVectors)];
  begin_columns<Op, kVectors>(acc, args, d, last_lanes);
  if (!fold_vectors<Op, kVectors, kCareful>(acc, args, d, last_lanes)) {
    begin_columns<Op, kVectors>(acc, args, d, last_lanes);
    fold_vectors<Op, kVectors, true>(acc, args, d, last_lanes);
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

#pragma once

// AVX-512 with VNNI. See simd.h; simd_portable.h says the same in plain loops.

#if defined(__GNUC__) && !defined(__clang__)
// GCC 12 takes the deliberately undefined operands inside its own intrinsics for our mistake.
#pragma GCC diagnostic push
#pragma GCC diagnostic ignored "-Wmaybe-uninitialized"
#pragma GCC diagnostic ignored "-Wuninitialized"
#include <immintrin.h>
#pragma GCC diagnostic pop
#else
#include <immintrin.h>
#endif

#include <cstddef>
#include <cstdint>

#define QUIRE_INLINE [[gnu::always_inline]] static inline

namespace quire::kernel::QUIRE_ISA_NS {

struct F32 {
  __m512 v;
};
struct I32 {
  __m512i v;
};
inline constexpr int kRegisters = 32;       // of 16 floats
inline constexpr bool kHasBf16Dots = true;  // where has_bf16_dot() says so
/// 16 pairs of bf16, the first of a pair in the low half of its 32 bits.
struct Pairs {
  __m512i v;
};
/// 64 bytes; as operand of dot4, 16 groups of 4.
struct Bytes {
  __m512i v;
};

QUIRE_INLINE __mmask16 first(int n) { return static_cast<__mmask16>((1u << n) - 1u); }

QUIRE_INLINE F32 zero() { return {_mm512_setzero_ps()}; }
QUIRE_INLINE F32 set1(float x) { return {_mm512_set1_ps(x)}; }
QUIRE_INLINE F32 load(const float* p) { return {_mm512_loadu_ps(p)}; }
QUIRE_INLINE void store(float* p, F32 x) { _mm512_storeu_ps(p, x.v); }
/// The first n of 16 lanes; the others read as 0 and are not written.
QUIRE_INLINE F32 load_first(const float* p, int n) { return {_mm512_maskz_loadu_ps(first(n), p)}; }
QUIRE_INLINE void store_first(float* p, F32 x, int n) { _mm512_mask_storeu_ps(p, first(n), x.v); }

QUIRE_INLINE F32 add(F32 a, F32 b) { return {_mm512_add_ps(a.v, b.v)}; }
QUIRE_INLINE F32 sub(F32 a, F32 b) { return {_mm512_sub_ps(a.v, b.v)}; }
QUIRE_INLINE F32 mul(F32 a, F32 b) { return {_mm512_mul_ps(a.v, b.v)}; }
QUIRE_INLINE F32 div(F32 a, F32 b) { return {_mm512_div_ps(a.v, b.v)}; }
QUIRE_INLINE F32 fma(F32 a, F32 b, F32 c) { return {_mm512_fmadd_ps(a.v, b.v, c.v)}; }
/// The second operand where either is NaN.
QUIRE_INLINE F32 max(F32 a, F32 b) { return {_mm512_max_ps(a.v, b.v)}; }
QUIRE_INLINE F32 min(F32 a, F32 b) { return {_mm512_min_ps(a.v, b.v)}; }
QUIRE_INLINE F32 abs(F32 a) { return {_mm512_abs_ps(a.v)}; }
QUIRE_INLINE F32 sqrt(F32 a) { return {_mm512_sqrt_ps(a.v)}; }
/// To the nearest integer, ties to even.
QUIRE_INLINE F32 round(F32 a) {
  return {_mm512_roundscale_ps(a.v, _MM_FROUND_TO_NEAREST_INT | _MM_FROUND_NO_EXC)};
}
/// x · 2^n for whole n.
QUIRE_INLINE F32 scale_by_power(F32 x, F32 n) { return {_mm512_scalef_ps(x.v, n.v)}; }
/// a < b ? yes : no, per lane; a NaN gives no.
QUIRE_INLINE F32 select_less(F32 a, F32 b, F32 yes, F32 no) {
  return {_mm512_mask_blend_ps(_mm512_cmp_ps_mask(a.v, b.v, _CMP_LT_OQ), no.v, yes.v)};
}
/// Bit i is set unless a < b in lane i.
QUIRE_INLINE unsigned not_less_bits(F32 a, F32 b) {
  return _mm512_cmp_ps_mask(a.v, b.v, _CMP_NLT_UQ);
}
/// fma() of single numbers.
QUIRE_INLINE float fma_one(float a, float b, float c) { return __builtin_fmaf(a, b, c); }
/// Lanes [begin, end) of x, `other` elsewhere; 0 <= begin <= end <= 16.
QUIRE_INLINE F32 keep_lanes(F32 x, int begin, int end, F32 other) {
  return {_mm512_mask_blend_ps(static_cast<__mmask16>(first(end) & ~first(begin)), other.v, x.v)};
}
/// True when every lane is finite.
QUIRE_INLINE bool all_finite(F32 x) { return _mm512_fpclass_ps_mask(x.v, 0x99) == 0; }
/// In one fixed tree.
QUIRE_INLINE float reduce_add(F32 x) { return _mm512_reduce_add_ps(x.v); }
QUIRE_INLINE float reduce_max(F32 x) { return _mm512_reduce_max_ps(x.v); }

/// Turns a square of 16 × 16: afterwards lane i of x[j] is what lane j of x[i] was.
QUIRE_INLINE void transpose(F32* x) {
  __m512 pair[16], quad[16];
#pragma GCC unroll 8
  for (int i = 0; i < 16; i += 2) {
    pair[i] = _mm512_unpacklo_ps(x[i].v, x[i + 1].v);
    pair[i + 1] = _mm512_unpackhi_ps(x[i].v, x[i + 1].v);
  }
  const auto low = [](__m512 a, __m512 b) {
    return _mm512_castpd_ps(_mm512_unpacklo_pd(_mm512_castps_pd(a), _mm512_castps_pd(b)));
  };
  const auto high = [](__m512 a, __m512 b) {
    return _mm512_castpd_ps(_mm512_unpackhi_pd(_mm512_castps_pd(a), _mm512_castps_pd(b)));
  };
#pragma GCC unroll 4
  for (int i = 0; i < 16; i += 4) {
    quad[i] = low(pair[i], pair[i + 2]);
    quad[i + 1] = high(pair[i], pair[i + 2]);
    quad[i + 2] = low(pair[i + 1], pair[i + 3]);
    quad[i + 3] = high(pair[i + 1], pair[i + 3]);
  }
  // Quarter l of quad[i + c] is now column 4l + c of rows i … i + 3.
#pragma GCC unroll 4
  for (int c = 0; c < 4; ++c) {
    const __m512 even = _mm512_shuffle_f32x4(quad[c], quad[4 + c], 0x88),
                 odd = _mm512_shuffle_f32x4(quad[c], quad[4 + c], 0xdd),
                 even2 = _mm512_shuffle_f32x4(quad[8 + c], quad[12 + c], 0x88),
                 odd2 = _mm512_shuffle_f32x4(quad[8 + c], quad[12 + c], 0xdd);
    x[c].v = _mm512_shuffle_f32x4(even, even2, 0x88);
    x[4 + c].v = _mm512_shuffle_f32x4(odd, odd2, 0x88);
    x[8 + c].v = _mm512_shuffle_f32x4(even, even2, 0xdd);
    x[12 + c].v = _mm512_shuffle_f32x4(odd, odd2, 0xdd);
  }
}

/// Lane 4l + j is the sum of lanes 4l … 4l + 3 of x[j]: ((0 + 2) + (1 + 3)).
QUIRE_INLINE F32 add_quarters(const F32* x) {
  const __m512 ab = _mm512_add_ps(_mm512_unpacklo_ps(x[0].v, x[1].v),
                                  _mm512_unpackhi_ps(x[0].v, x[1].v)),
               cd = _mm512_add_ps(_mm512_unpacklo_ps(x[2].v, x[3].v),
                                  _mm512_unpackhi_ps(x[2].v, x[3].v));
  const __m512d even = _mm512_unpacklo_pd(_mm512_castps_pd(ab), _mm512_castps_pd(cd)),
                odd = _mm512_unpackhi_pd(_mm512_castps_pd(ab), _mm512_castps_pd(cd));
  return {_mm512_add_ps(_mm512_castpd_ps(even), _mm512_castpd_ps(odd))};
}
/// Lane 4i + j is the sum of lanes j, 4 + j, 8 + j and 12 + j of x[i]: ((0 + 1) + (2 + 3)).
QUIRE_INLINE F32 add_quads(const F32* x) {
  const auto halves = [](__m512 a, __m512 b) {
    return _mm512_add_ps(_mm512_shuffle_f32x4(a, b, 0x88), _mm512_shuffle_f32x4(a, b, 0xdd));
  };
  return {halves(halves(x[0].v, x[1].v), halves(x[2].v, x[3].v))};
}

/// Lane 4i + j is lane 4j + i of x.
QUIRE_INLINE F32 turn_quads(F32 x) {
  const __m512i order = _mm512_set_epi32(15, 11, 7, 3, 14, 10, 6, 2, 13, 9, 5, 1, 12, 8, 4, 0);
  return {_mm512_permutexvar_ps(order, x.v)};
}

QUIRE_INLINE F32 load_f16(const void* p) {
  return {_mm512_cvtph_ps(_mm256_loadu_si256(static_cast<const __m256i*>(p)))};
}
QUIRE_INLINE F32 load_bf16(const void* p) {
  return {_mm512_castsi512_ps(_mm512_slli_epi32(
      _mm512_cvtepu16_epi32(_mm256_loadu_si256(static_cast<const __m256i*>(p))), 16))};
}
QUIRE_INLINE F32 load_i8(const void* p) {
  return {
      _mm512_cvtepi32_ps(_mm512_cvtepi8_epi32(_mm_loadu_si128(static_cast<const __m128i*>(p))))};
}
QUIRE_INLINE F32 load_u8(const void* p) {
  return {
      _mm512_cvtepi32_ps(_mm512_cvtepu8_epi32(_mm_loadu_si128(static_cast<const __m128i*>(p))))};
}
/// One half, 16 times.
QUIRE_INLINE F32 repeat_f16(const void* p) {
  std::int16_t bits;
  __builtin_memcpy(&bits, p, 2);
  return {_mm512_cvtph_ps(_mm256_set1_epi16(bits))};
}
/// The lower and the upper 4 bits of 16 bytes.
QUIRE_INLINE void load_nibbles(const void* p, F32& low, F32& high) {
  const __m512i bytes = _mm512_cvtepu8_epi32(_mm_loadu_si128(static_cast<const __m128i*>(p)));
  low.v = _mm512_cvtepi32_ps(_mm512_and_si512(bytes, _mm512_set1_epi32(15)));
  high.v = _mm512_cvtepi32_ps(_mm512_srli_epi32(bytes, 4));
}
/// Round to nearest, ties to even.
QUIRE_INLINE void store_f16(void* p, F32 x) {
  _mm256_storeu_si256(static_cast<__m256i*>(p),
                      _mm512_cvtps_ph(x.v, _MM_FROUND_TO_NEAREST_INT | _MM_FROUND_NO_EXC));
}

QUIRE_INLINE void store_bf16(void* p, F32 x) {
  const __m512i bits = _mm512_castps_si512(x.v);
  const __m512i odd = _mm512_and_si512(_mm512_srli_epi32(bits, 16), _mm512_set1_epi32(1));
  const __m512i rounded = _mm512_add_epi32(bits, _mm512_add_epi32(odd, _mm512_set1_epi32(0x7fff)));
  const __m512i quiet = _mm512_or_si512(bits, _mm512_set1_epi32(0x400000));
  const __m512i kept =
      _mm512_mask_blend_epi32(_mm512_cmp_ps_mask(x.v, x.v, _CMP_UNORD_Q), rounded, quiet);
  _mm256_storeu_si256(static_cast<__m256i*>(p), _mm512_cvtepi32_epi16(_mm512_srli_epi32(kept, 16)));
}

QUIRE_INLINE Pairs load_pairs(const void* p) { return {_mm512_loadu_si512(p)}; }
QUIRE_INLINE void store_pairs(void* p, Pairs x) { _mm512_storeu_si512(p, x.v); }
/// The pair at p, 16 times.
QUIRE_INLINE Pairs repeat_pair(const void* p) {
  std::int32_t word;
  __builtin_memcpy(&word, p, 4);
  return {_mm512_set1_epi32(word)};
}
/// The 16 bf16 at `low` with the 16 at `high`.
QUIRE_INLINE Pairs pair_up(const void* low, const void* high) {
  const auto wide = [](const void* p) {
    return _mm512_cvtepu16_epi32(_mm256_loadu_si256(static_cast<const __m256i*>(p)));
  };
  return {_mm512_or_si512(wide(low), _mm512_slli_epi32(wide(high), 16))};
}
/// The same of 32 bf16 that follow one another.
QUIRE_INLINE Pairs pair_halves(const void* p) {
  const __m512i order = _mm512_or_si512(
      _mm512_cvtepu16_epi32(_mm256_set_epi16(15, 14, 13, 12, 11, 10, 9, 8, 7, 6, 5, 4, 3, 2, 1, 0)),
      _mm512_slli_epi32(_mm512_cvtepu16_epi32(_mm256_set_epi16(31, 30, 29, 28, 27, 26, 25, 24, 23,
                                                               22, 21, 20, 19, 18, 17, 16)),
                        16));
  return {_mm512_permutexvar_epi16(order, _mm512_loadu_si512(p))};
}
/// The same of 32 at `low` and 32 at `high`: two vectors.
QUIRE_INLINE void pair_up32(const void* low, const void* high, Pairs* to) {
  const __m512i count = _mm512_set_epi32(15, 14, 13, 12, 11, 10, 9, 8, 7, 6, 5, 4, 3, 2, 1, 0);
  const __m512i first_order =
      _mm512_or_si512(count, _mm512_slli_epi32(_mm512_add_epi32(count, _mm512_set1_epi32(32)), 16));
  const __m512i second_order = _mm512_add_epi32(first_order, _mm512_set1_epi32(0x100010));
  const __m512i a = _mm512_loadu_si512(low), b = _mm512_loadu_si512(high);
  to[0].v = _mm512_permutex2var_epi16(a, first_order, b);
  to[1].v = _mm512_permutex2var_epi16(a, second_order, b);
}
QUIRE_INLINE Pairs low_of(Pairs x) { return {_mm512_and_si512(x.v, _mm512_set1_epi32(0xffff))}; }
QUIRE_INLINE Pairs high_of(Pairs x) {
  return {_mm512_andnot_si512(_mm512_set1_epi32(0xffff), x.v)};
}
/// Of each pair, as floats.
QUIRE_INLINE F32 widen_low(Pairs x) { return {_mm512_castsi512_ps(_mm512_slli_epi32(x.v, 16))}; }
QUIRE_INLINE F32 widen_high(Pairs x) { return {_mm512_castsi512_ps(high_of(x).v)}; }
/// Lane i pairs floats 2i and 2i + 1 of the 32 in a, b; rounded to nearest, ties to even. Needs
/// has_bf16_dot() (quire/base/isa.h), as dot2 does: the compiler never chooses these by itself.
QUIRE_INLINE Pairs round_pairs(F32 a, F32 b) {
  return {reinterpret_cast<__m512i>(_mm512_cvtne2ps_pbh(b.v, a.v))};
}
/// acc[i] = fma(low a[i], low b[i], fma(high a[i], high b[i], acc[i])); denormals count as 0.
QUIRE_INLINE F32 dot2(F32 acc, Pairs a, Pairs b) {
  return {
      _mm512_dpbf16_ps(acc.v, reinterpret_cast<__m512bh>(a.v), reinterpret_cast<__m512bh>(b.v))};
}

/// Asks for the cache line at p; any address will do.
QUIRE_INLINE void prefetch(const void* p) {
  _mm_prefetch(static_cast<const char*>(p), _MM_HINT_T0);
}

/// The same, for what is wanted later than L1 could keep it.
QUIRE_INLINE void prefetch_far(const void* p) {
  _mm_prefetch(static_cast<const char*>(p), _MM_HINT_T1);
}

QUIRE_INLINE I32 set1_i32(std::int32_t x) { return {_mm512_set1_epi32(x)}; }
QUIRE_INLINE F32 to_f32(I32 x) { return {_mm512_cvtepi32_ps(x.v)}; }
/// Whole numbers in [-128, 127], as 16 bytes.
QUIRE_INLINE void store_i8(void* p, F32 x) {
  _mm_storeu_si128(static_cast<__m128i*>(p), _mm512_cvtsepi32_epi8(_mm512_cvtps_epi32(x.v)));
}

QUIRE_INLINE Bytes load_bytes(const void* p) { return {_mm512_loadu_si512(p)}; }
QUIRE_INLINE void store_bytes(void* p, Bytes x) { _mm512_storeu_si512(p, x.v); }
QUIRE_INLINE Bytes low_nibbles(Bytes x) { return {_mm512_and_si512(x.v, _mm512_set1_epi8(15))}; }
QUIRE_INLINE Bytes high_nibbles(Bytes x) { return low_nibbles({_mm512_srli_epi16(x.v, 4)}); }
/// Bits 2J and 2J + 1 of each byte.
template <int J>
QUIRE_INLINE Bytes two_bits(Bytes x) {
  return {_mm512_and_si512(_mm512_srli_epi16(x.v, 2 * J), _mm512_set1_epi8(3))};
}
/// The same 4 bytes 16 times.
QUIRE_INLINE Bytes repeat4(const void* p) {
  std::int32_t word;
  __builtin_memcpy(&word, p, 4);
  return {_mm512_set1_epi32(word)};
}
/// acc[i] += Σ_j unsigned a[4i+j] · signed b[4i+j], without saturation.
QUIRE_INLINE I32 dot4(I32 acc, Bytes a, Bytes b) { return {_mm512_dpbusd_epi32(acc.v, a.v, b.v)}; }

}  // namespace quire::kernel::QUIRE_ISA_NS

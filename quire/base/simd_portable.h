#pragma once

// Plain loops over 16 lanes, for any processor. An FMA here is a multiplication and an addition:
// equal bits are promised per instruction set only.

#include <cstddef>
#include <cstdint>

#include "quire/base/half.h"

#define QUIRE_INLINE [[gnu::always_inline]] static inline

namespace quire::kernel::QUIRE_ISA_NS {

// Vectors of the compiler (GCC's and Clang's vector_size): it cuts them to the registers that there
// are.
using Floats = float __attribute__((vector_size(64)));
using Ints = std::int32_t __attribute__((vector_size(64)));
using Words = std::uint32_t __attribute__((vector_size(64)));

struct F32 {
  Floats v;
};
struct I32 {
  Ints v;
};
inline constexpr int kRegisters = 4;
inline constexpr bool kHasBf16Dots = false;
struct Pairs {
  Words v;
};
struct Bytes {
  alignas(64) std::uint8_t v[64];
};

// A lane-wise function without a vector form; `i` is the lane.
#define QUIRE_LANES(expression)                       \
  F32 out;                                            \
  for (int i = 0; i < 16; ++i) out.v[i] = expression; \
  return out

/// The bits of `from` as a To of the same size.
template <class To, class From>
QUIRE_INLINE To bits_as(From from) {
  static_assert(sizeof(To) == sizeof(From));
  To out;
  __builtin_memcpy(&out, &from, sizeof(To));
  return out;
}
/// As many bytes of `p`, aligned to nothing, as a T has.
template <class T>
QUIRE_INLINE T read_at(const void* p) {
  T out;
  __builtin_memcpy(&out, p, sizeof(T));
  return out;
}
template <class T>
QUIRE_INLINE T read(const void* p, int i) {
  return read_at<T>(static_cast<const std::uint8_t*>(p) + static_cast<std::size_t>(i) * sizeof(T));
}

QUIRE_INLINE F32 set1(float x) { return {x - Floats{}}; }  // (-0 + 0 would be +0.)
QUIRE_INLINE F32 zero() { return {Floats{}}; }
QUIRE_INLINE F32 load(const float* p) { return {read_at<Floats>(p)}; }
QUIRE_INLINE void store(float* p, F32 x) { __builtin_memcpy(p, &x.v, 64); }
QUIRE_INLINE F32 load_first(const float* p, int n) {
  float lanes[16] = {};
  for (int i = 0; i < n; ++i) lanes[i] = p[i];
  return load(lanes);
}
QUIRE_INLINE void store_first(float* p, F32 x, int n) {
  float lanes[16];
  store(lanes, x);
  for (int i = 0; i < n; ++i) p[i] = lanes[i];
}
QUIRE_INLINE F32 add(F32 a, F32 b) { return {a.v + b.v}; }
QUIRE_INLINE F32 sub(F32 a, F32 b) { return {a.v - b.v}; }
QUIRE_INLINE F32 mul(F32 a, F32 b) { return {a.v * b.v}; }
QUIRE_INLINE F32 div(F32 a, F32 b) { return {a.v / b.v}; }
QUIRE_INLINE F32 fma(F32 a, F32 b, F32 c) { return {a.v * b.v + c.v}; }
QUIRE_INLINE F32 max(F32 a, F32 b) { return {a.v > b.v ? a.v : b.v}; }
QUIRE_INLINE F32 min(F32 a, F32 b) { return {a.v < b.v ? a.v : b.v}; }
QUIRE_INLINE F32 abs(F32 a) { return {bits_as<Floats>(bits_as<Words>(a.v) & 0x7fffffffu)}; }
QUIRE_INLINE F32 sqrt(F32 a) { QUIRE_LANES(__builtin_sqrtf(a.v[i])); }
/// |a| below 2^22.
QUIRE_INLINE F32 round(F32 a) { return {(a.v + 0x1.8p23f) - 0x1.8p23f}; }
QUIRE_INLINE Floats power_of_two(Ints n) { return bits_as<Floats>(bits_as<Words>(n + 127) << 23); }
/// n in [-252, 254]: in two steps, so that neither factor overflows.
QUIRE_INLINE F32 scale_by_power(F32 x, F32 n) {
  const Ints whole = __builtin_convertvector(n.v, Ints);
  const Ints half = whole / 2;
  return {x.v * power_of_two(half) * power_of_two(whole - half)};
}
QUIRE_INLINE F32 select_less(F32 a, F32 b, F32 yes, F32 no) { return {a.v < b.v ? yes.v : no.v}; }
QUIRE_INLINE unsigned not_less_bits(F32 a, F32 b) {
  unsigned out = 0;
  for (int i = 0; i < 16; ++i) out |= (a.v[i] < b.v[i] ? 0u : 1u) << i;
  return out;
}
QUIRE_INLINE float fma_one(float a, float b, float c) { return a * b + c; }
QUIRE_INLINE F32 keep_lanes(F32 x, int begin, int end, F32 other) {
  const Ints lane{0, 1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11, 12, 13, 14, 15};
  return {((lane >= begin) & (lane < end)) ? x.v : other.v};
}
QUIRE_INLINE bool all_finite(F32 x) {
  float lanes[16];
  store(lanes, x);
  bool finite = true;
  for (int i = 0; i < 16; ++i) finite = finite && __builtin_fabsf(lanes[i]) <= 3.402823466e38f;
  return finite;
}
QUIRE_INLINE float reduce_add(F32 x) {
  float lanes[16];
  store(lanes, x);
  for (int half = 8; half > 0; half /= 2)
    for (int i = 0; i < half; ++i) lanes[i] += lanes[i + half];
  return lanes[0];
}
QUIRE_INLINE float reduce_max(F32 x) {
  float lanes[16];
  store(lanes, x);
  for (int i = 1; i < 16; ++i) lanes[0] = lanes[0] > lanes[i] ? lanes[0] : lanes[i];
  return lanes[0];
}

QUIRE_INLINE void transpose(F32* x) {
  float from[16][16];
  float to[16][16];
  __builtin_memcpy(from, x, sizeof(from));
  for (int i = 0; i < 16; ++i)
    for (int j = 0; j < 16; ++j) to[i][j] = from[j][i];
  __builtin_memcpy(x, to, sizeof(to));
}

/// As in simd_avx512.h.
QUIRE_INLINE F32 add_quarters(const F32* x) {
  float from[4][16], to[16];
  __builtin_memcpy(from, x, sizeof(from));
  for (int l = 0; l < 16; l += 4)
    for (int j = 0; j < 4; ++j)
      to[l + j] = (from[j][l] + from[j][l + 2]) + (from[j][l + 1] + from[j][l + 3]);
  return load(to);
}
QUIRE_INLINE F32 add_quads(const F32* x) {
  float from[4][16], to[16];
  __builtin_memcpy(from, x, sizeof(from));
  for (int i = 0; i < 4; ++i)
    for (int j = 0; j < 4; ++j)
      to[4 * i + j] = (from[i][j] + from[i][4 + j]) + (from[i][8 + j] + from[i][12 + j]);
  return load(to);
}

QUIRE_INLINE F32 turn_quads(F32 x) {
  float from[16], to[16];
  store(from, x);
  for (int i = 0; i < 4; ++i)
    for (int j = 0; j < 4; ++j) to[4 * i + j] = from[4 * j + i];
  return load(to);
}

/// 16 numbers of 16 bits, widened.
QUIRE_INLINE Words read_halves(const void* p) {
  using Narrow = std::uint16_t __attribute__((vector_size(32)));
  return __builtin_convertvector(read_at<Narrow>(p), Words);
}
/// As to_float(Half).
QUIRE_INLINE F32 load_f16(const void* p) {
  const Words bits = read_halves(p);
  const Words rest = bits & 0x7fffu;
  const Floats subnormal = __builtin_convertvector(bits_as<Ints>(rest), Floats) * 0x1p-24f;
  const Words wide = rest << 13;
  const Words finite = rest >= 0x0400u ? wide + 0x38000000u : bits_as<Words>(subnormal);
  return {
      bits_as<Floats>((rest >= 0x7c00u ? wide | 0x7f800000u : finite) | (bits & 0x8000u) << 16)};
}
QUIRE_INLINE F32 load_bf16(const void* p) { return {bits_as<Floats>(read_halves(p) << 16)}; }
QUIRE_INLINE F32 load_i8(const void* p) {
  using Narrow = std::int8_t __attribute__((vector_size(16)));
  return {__builtin_convertvector(read_at<Narrow>(p), Floats)};
}
QUIRE_INLINE F32 load_u8(const void* p) {
  using Narrow = std::uint8_t __attribute__((vector_size(16)));
  return {__builtin_convertvector(read_at<Narrow>(p), Floats)};
}
QUIRE_INLINE F32 repeat_f16(const void* p) { return set1(to_float(read<Half>(p, 0))); }
QUIRE_INLINE void load_nibbles(const void* p, F32& low, F32& high) {
  using Narrow = std::uint8_t __attribute__((vector_size(16)));
  const auto bytes = read_at<Narrow>(p);
  low = {__builtin_convertvector(bytes & 15, Floats)};
  high = {__builtin_convertvector(bytes >> 4, Floats)};
}
QUIRE_INLINE void store_f16(void* p, F32 x) {
  for (int i = 0; i < 16; ++i) {
    const Half half = to_half(x.v[i]);
    __builtin_memcpy(static_cast<std::uint8_t*>(p) + 2 * i, &half, 2);
  }
}

/// The bits of to_bfloat16, each in the lower half of its word.
QUIRE_INLINE Words round_to_bf16(F32 x) {
  const Words bits = bits_as<Words>(x.v);
  const Words rounded = (bits + 0x7fffu + (bits >> 16 & 1u)) >> 16;
  return (bits & 0x7fffffffu) > 0x7f800000u ? bits >> 16 | 0x40u : rounded;
}
QUIRE_INLINE void store_bf16(void* p, F32 x) {
  using Narrow = std::uint16_t __attribute__((vector_size(32)));
  const Narrow narrow = __builtin_convertvector(round_to_bf16(x), Narrow);
  __builtin_memcpy(p, &narrow, 32);
}

QUIRE_INLINE Pairs load_pairs(const void* p) { return {read_at<Words>(p)}; }
QUIRE_INLINE void store_pairs(void* p, Pairs x) { __builtin_memcpy(p, &x.v, 64); }
QUIRE_INLINE Pairs repeat_pair(const void* p) { return {Words{} + read_at<std::uint32_t>(p)}; }
QUIRE_INLINE Pairs pair_up(const void* low, const void* high) {
  return {read_halves(low) | read_halves(high) << 16};
}
QUIRE_INLINE Pairs pair_halves(const void* p) {
  return pair_up(p, static_cast<const std::uint8_t*>(p) + 32);
}
QUIRE_INLINE void pair_up32(const void* low, const void* high, Pairs* to) {
  to[0] = pair_up(low, high);
  to[1] = pair_up(static_cast<const std::uint8_t*>(low) + 32,
                  static_cast<const std::uint8_t*>(high) + 32);
}
QUIRE_INLINE Pairs low_of(Pairs x) { return {x.v & 0xffffu}; }
QUIRE_INLINE Pairs high_of(Pairs x) { return {x.v & 0xffff0000u}; }
QUIRE_INLINE F32 widen_high(Pairs x) { return {bits_as<Floats>(x.v & 0xffff0000u)}; }
QUIRE_INLINE F32 widen_low(Pairs x) { return {bits_as<Floats>(x.v << 16)}; }
QUIRE_INLINE Pairs round_pairs(F32 a, F32 b) {
  std::uint8_t pairs[64];
  store_bf16(pairs, a);
  store_bf16(pairs + 32, b);
  return load_pairs(pairs);
}
QUIRE_INLINE F32 dot2(F32 acc, Pairs a, Pairs b) {
  return fma(widen_low(a), widen_low(b), fma(widen_high(a), widen_high(b), acc));
}

QUIRE_INLINE void prefetch(const void* p) { __builtin_prefetch(p); }
QUIRE_INLINE void prefetch_far(const void* p) { __builtin_prefetch(p, 0, 2); }

QUIRE_INLINE I32 set1_i32(std::int32_t x) { return {Ints{} + x}; }
QUIRE_INLINE F32 to_f32(I32 x) { return {__builtin_convertvector(x.v, Floats)}; }
QUIRE_INLINE void store_i8(void* p, F32 x) {
  for (int i = 0; i < 16; ++i) {
    // A NaN becomes -128, as it does in AVX-512.
    const float limited = x.v[i] > -128.0f ? (x.v[i] < 127.0f ? x.v[i] : 127.0f) : -128.0f;
    static_cast<std::int8_t*>(p)[i] = static_cast<std::int8_t>((limited + 0x1.8p23f) - 0x1.8p23f);
  }
}

QUIRE_INLINE Bytes load_bytes(const void* p) {
  Bytes out;
  __builtin_memcpy(out.v, p, 64);
  return out;
}
QUIRE_INLINE void store_bytes(void* p, Bytes x) { __builtin_memcpy(p, x.v, 64); }
QUIRE_INLINE Bytes low_nibbles(Bytes x) {
  for (int i = 0; i < 64; ++i) x.v[i] = x.v[i] & 15;
  return x;
}
QUIRE_INLINE Bytes high_nibbles(Bytes x) {
  for (int i = 0; i < 64; ++i) x.v[i] = static_cast<std::uint8_t>(x.v[i] >> 4);
  return x;
}
template <int J>
QUIRE_INLINE Bytes two_bits(Bytes x) {
  for (int i = 0; i < 64; ++i) x.v[i] = x.v[i] >> (2 * J) & 3;
  return x;
}
QUIRE_INLINE Bytes repeat4(const void* p) {
  Bytes out;
  for (int i = 0; i < 16; ++i) __builtin_memcpy(out.v + 4 * i, p, 4);
  return out;
}
QUIRE_INLINE I32 dot4(I32 acc, Bytes a, Bytes b) {
  for (int i = 0; i < 16; ++i)
    for (int j = 4 * i; j < 4 * i + 4; ++j)
      acc.v[i] += static_cast<std::int32_t>(a.v[j]) * static_cast<std::int8_t>(b.v[j]);
  return acc;
}

#undef QUIRE_LANES

}  // namespace quire::kernel::QUIRE_ISA_NS

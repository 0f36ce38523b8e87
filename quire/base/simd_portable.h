#pragma once

// Plain loops over 16 lanes, for any processor. An FMA here is a multiplication and an addition:
// equal bits are promised per instruction set only.

#include <cstddef>
#include <cstdint>

#include "quire/base/half.h"

#define QUIRE_INLINE [[gnu::always_inline]] static inline

namespace quire::kernel::QUIRE_ISA_NS {

struct F32 {
  alignas(64) float v[16];
};
struct I32 {
  alignas(64) std::int32_t v[16];
};
inline constexpr int kRegisters = 4;
inline constexpr bool kHasBf16Dots = false;
struct Pairs {
  alignas(64) std::uint32_t v[16];
};
struct Bytes {
  alignas(64) std::uint8_t v[64];
};

// A lane-wise function of F32 operands; `i` is the lane.
#define QUIRE_LANES(expression)                       \
  F32 out;                                            \
  for (int i = 0; i < 16; ++i) out.v[i] = expression; \
  return out

QUIRE_INLINE F32 set1(float x) { QUIRE_LANES(x); }
QUIRE_INLINE F32 zero() { return set1(0.0f); }
QUIRE_INLINE F32 load(const float* p) { QUIRE_LANES(p[i]); }
QUIRE_INLINE void store(float* p, F32 x) {
  for (int i = 0; i < 16; ++i) p[i] = x.v[i];
}
QUIRE_INLINE F32 load_first(const float* p, int n) { QUIRE_LANES(i < n ? p[i] : 0.0f); }
QUIRE_INLINE void store_first(float* p, F32 x, int n) {
  for (int i = 0; i < n; ++i) p[i] = x.v[i];
}
QUIRE_INLINE F32 add(F32 a, F32 b) { QUIRE_LANES(a.v[i] + b.v[i]); }
QUIRE_INLINE F32 sub(F32 a, F32 b) { QUIRE_LANES(a.v[i] - b.v[i]); }
QUIRE_INLINE F32 mul(F32 a, F32 b) { QUIRE_LANES(a.v[i] * b.v[i]); }
QUIRE_INLINE F32 div(F32 a, F32 b) { QUIRE_LANES(a.v[i] / b.v[i]); }
QUIRE_INLINE F32 fma(F32 a, F32 b, F32 c) { QUIRE_LANES(a.v[i] * b.v[i] + c.v[i]); }
QUIRE_INLINE F32 max(F32 a, F32 b) { QUIRE_LANES(a.v[i] > b.v[i] ? a.v[i] : b.v[i]); }
QUIRE_INLINE F32 min(F32 a, F32 b) { QUIRE_LANES(a.v[i] < b.v[i] ? a.v[i] : b.v[i]); }
QUIRE_INLINE F32 abs(F32 a) { QUIRE_LANES(__builtin_fabsf(a.v[i])); }
QUIRE_INLINE F32 sqrt(F32 a) { QUIRE_LANES(__builtin_sqrtf(a.v[i])); }
/// |a| below 2^22.
QUIRE_INLINE F32 round(F32 a) { QUIRE_LANES((a.v[i] + 0x1.8p23f) - 0x1.8p23f); }
QUIRE_INLINE float power_of_two(int n) {
  const std::uint32_t bits = static_cast<std::uint32_t>(n + 127) << 23;
  float out;
  __builtin_memcpy(&out, &bits, 4);
  return out;
}
/// n in [-252, 254]: in two steps, so that neither factor overflows.
QUIRE_INLINE F32 scale_by_power(F32 x, F32 n) {
  for (int i = 0; i < 16; ++i) {
    const int whole = static_cast<int>(n.v[i]);
    x.v[i] = x.v[i] * power_of_two(whole / 2) * power_of_two(whole - whole / 2);
  }
  return x;
}
QUIRE_INLINE F32 select_less(F32 a, F32 b, F32 yes, F32 no) {
  QUIRE_LANES(a.v[i] < b.v[i] ? yes.v[i] : no.v[i]);
}
QUIRE_INLINE F32 keep_lanes(F32 x, int begin, int end, F32 other) {
  QUIRE_LANES(i >= begin && i < end ? x.v[i] : other.v[i]);
}
QUIRE_INLINE bool all_finite(F32 x) {
  bool finite = true;
  for (int i = 0; i < 16; ++i) finite = finite && __builtin_fabsf(x.v[i]) <= 3.402823466e38f;
  return finite;
}
QUIRE_INLINE float reduce_add(F32 x) {
  for (int half = 8; half > 0; half /= 2)
    for (int i = 0; i < half; ++i) x.v[i] += x.v[i + half];
  return x.v[0];
}
QUIRE_INLINE float reduce_max(F32 x) {
  for (int i = 1; i < 16; ++i) x.v[0] = x.v[0] > x.v[i] ? x.v[0] : x.v[i];
  return x.v[0];
}

QUIRE_INLINE void transpose(F32* x) {
  for (int i = 0; i < 16; ++i) {
    for (int j = 0; j < i; ++j) {
      const float other = x[i].v[j];
      x[i].v[j] = x[j].v[i];
      x[j].v[i] = other;
    }
  }
}

template <class T>
QUIRE_INLINE T read(const void* p, int i) {
  T out;
  __builtin_memcpy(&out,
                   static_cast<const std::uint8_t*>(p) + static_cast<std::size_t>(i) * sizeof(T),
                   sizeof(T));
  return out;
}
QUIRE_INLINE F32 load_f16(const void* p) { QUIRE_LANES(to_float(read<Half>(p, i))); }
QUIRE_INLINE F32 load_bf16(const void* p) { QUIRE_LANES(to_float(read<BFloat16>(p, i))); }
QUIRE_INLINE F32 load_i8(const void* p) {
  QUIRE_LANES(static_cast<float>(read<std::int8_t>(p, i)));
}
QUIRE_INLINE F32 load_u8(const void* p) {
  QUIRE_LANES(static_cast<float>(read<std::uint8_t>(p, i)));
}
QUIRE_INLINE F32 repeat_f16(const void* p) { return set1(to_float(read<Half>(p, 0))); }
QUIRE_INLINE void load_nibbles(const void* p, F32& low, F32& high) {
  for (int i = 0; i < 16; ++i) {
    const std::uint8_t byte = read<std::uint8_t>(p, i);
    low.v[i] = static_cast<float>(byte & 15);
    high.v[i] = static_cast<float>(byte >> 4);
  }
}
QUIRE_INLINE void store_f16(void* p, F32 x) {
  for (int i = 0; i < 16; ++i) {
    const Half half = to_half(x.v[i]);
    __builtin_memcpy(static_cast<std::uint8_t*>(p) + 2 * i, &half, 2);
  }
}

QUIRE_INLINE void store_bf16(void* p, F32 x) {
  for (int i = 0; i < 16; ++i) {
    const BFloat16 narrow = to_bfloat16(x.v[i]);
    __builtin_memcpy(static_cast<std::uint8_t*>(p) + 2 * i, &narrow, 2);
  }
}

QUIRE_INLINE Pairs load_pairs(const void* p) {
  Pairs out;
  __builtin_memcpy(out.v, p, 64);
  return out;
}
QUIRE_INLINE void store_pairs(void* p, Pairs x) { __builtin_memcpy(p, x.v, 64); }
QUIRE_INLINE Pairs repeat_pair(const void* p) {
  Pairs out;
  for (int i = 0; i < 16; ++i) __builtin_memcpy(out.v + i, p, 4);
  return out;
}
QUIRE_INLINE Pairs pair_up(const void* low, const void* high) {
  Pairs out;
  for (int i = 0; i < 16; ++i)
    out.v[i] = read<std::uint16_t>(low, i) | std::uint32_t{read<std::uint16_t>(high, i)} << 16;
  return out;
}
QUIRE_INLINE Pairs pair_halves(const void* p) {
  return pair_up(p, static_cast<const std::uint8_t*>(p) + 32);
}
QUIRE_INLINE void pair_up32(const void* low, const void* high, Pairs* to) {
  to[0] = pair_up(low, high);
  to[1] = pair_up(static_cast<const std::uint8_t*>(low) + 32,
                  static_cast<const std::uint8_t*>(high) + 32);
}
QUIRE_INLINE Pairs low_of(Pairs x) {
  for (int i = 0; i < 16; ++i) x.v[i] &= 0xffffu;
  return x;
}
QUIRE_INLINE Pairs high_of(Pairs x) {
  for (int i = 0; i < 16; ++i) x.v[i] &= 0xffff0000u;
  return x;
}
QUIRE_INLINE F32 widen_high(Pairs x) {
  F32 out;
  x = high_of(x);
  __builtin_memcpy(out.v, x.v, 64);
  return out;
}
QUIRE_INLINE F32 widen_low(Pairs x) {
  for (int i = 0; i < 16; ++i) x.v[i] <<= 16;
  return widen_high(x);
}
QUIRE_INLINE Pairs round_pairs(F32 a, F32 b) {
  Pairs out;
  store_bf16(out.v, a);
  store_bf16(out.v + 8, b);
  return out;
}
QUIRE_INLINE F32 dot2(F32 acc, Pairs a, Pairs b) {
  return fma(widen_low(a), widen_low(b), fma(widen_high(a), widen_high(b), acc));
}

QUIRE_INLINE void prefetch(const void* p) { __builtin_prefetch(p); }
QUIRE_INLINE void prefetch_far(const void* p) { __builtin_prefetch(p, 0, 2); }

QUIRE_INLINE I32 set1_i32(std::int32_t x) {
  I32 out;
  for (int i = 0; i < 16; ++i) out.v[i] = x;
  return out;
}
QUIRE_INLINE F32 to_f32(I32 x) { QUIRE_LANES(static_cast<float>(x.v[i])); }
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

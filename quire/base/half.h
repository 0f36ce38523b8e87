#pragma once

#include <bit>
#include <cstdint>

namespace quire {

// Always inlined: sources that are compiled for several instruction sets use these, and must not
// share a compiled copy.

/// IEEE 754 binary16, storage only: convert to float to compute.
struct Half {
  std::uint16_t bits = 0;
};

/// The upper half of a binary32, storage only.
struct BFloat16 {
  std::uint16_t bits = 0;
};

/// Exact.
[[gnu::always_inline]] constexpr float to_float(BFloat16 x) {
  return std::bit_cast<float>(std::uint32_t{x.bits} << 16);
}

/// Exact, subnormals and NaN payloads included.
[[gnu::always_inline]] constexpr float to_float(Half x) {
  const std::uint32_t sign = std::uint32_t{x.bits & 0x8000u} << 16;
  const std::uint32_t rest = x.bits & 0x7fffu;
  if (rest >= 0x7c00u) return std::bit_cast<float>(sign | 0x7f800000u | (rest & 0x3ffu) << 13);
  if (rest >= 0x0400u) return std::bit_cast<float>(sign | ((rest << 13) + 0x38000000u));
  const float magnitude = static_cast<float>(rest) * 0x1p-24f;
  return std::bit_cast<float>(sign | std::bit_cast<std::uint32_t>(magnitude));
}

/// Round to nearest, ties to even; NaN stays a (quiet) NaN.
[[gnu::always_inline]] constexpr BFloat16 to_bfloat16(float x) {
  const std::uint32_t bits = std::bit_cast<std::uint32_t>(x);
  if ((bits & 0x7fffffffu) > 0x7f800000u) return {static_cast<std::uint16_t>(bits >> 16 | 0x40u)};
  return {static_cast<std::uint16_t>((bits + 0x7fffu + (bits >> 16 & 1u)) >> 16)};
}

/// Round to nearest, ties to even; overflow gives infinity, NaN stays a (quiet) NaN.
[[gnu::always_inline]] constexpr Half to_half(float x) {
  const std::uint32_t bits = std::bit_cast<std::uint32_t>(x);
  const std::uint32_t sign = bits >> 16 & 0x8000u;
  const std::uint32_t rest = bits & 0x7fffffffu;
  if (rest > 0x7f800000u)
    return {static_cast<std::uint16_t>(sign | 0x7e00u | (rest >> 13 & 0x3ffu))};
  if (rest >= 0x477ff000u) return {static_cast<std::uint16_t>(sign | 0x7c00u)};
  if (rest < 0x38800000u) {
    // Subnormal halves are multiples of 2^-24: adding 0.5 lets the FPU round to one.
    const float shifted = std::bit_cast<float>(rest) + 0.5f;
    return {
        static_cast<std::uint16_t>(sign | (std::bit_cast<std::uint32_t>(shifted) - 0x3f000000u))};
  }
  const std::uint32_t rounded = rest + 0xfffu + (rest >> 13 & 1u);
  return {static_cast<std::uint16_t>(sign | ((rounded - 0x38000000u) >> 13))};
}

}  // namespace quire

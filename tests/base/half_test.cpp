#include "quire/base/half.h"

#include <gtest/gtest.h>

#include <cmath>
#include <cstdint>
#include <limits>

namespace quire {
namespace {

/// The value of a binary16 by the definition of the format: sign, 5 bits of exponent, 10 of
/// fraction.
double value_by_definition(std::uint32_t bits) {
  const double sign = (bits & 0x8000u) != 0 ? -1.0 : 1.0;
  const int exponent = static_cast<int>(bits >> 10 & 31u);
  const double fraction = bits & 0x3FFu;
  if (exponent == 31)
    return fraction == 0 ? sign * std::numeric_limits<double>::infinity() : std::nan("");
  if (exponent == 0) return sign * std::ldexp(fraction, -24);
  return sign * std::ldexp(1024 + fraction, exponent - 25);
}

Half half_of(std::uint32_t bits) { return {static_cast<std::uint16_t>(bits)}; }
BFloat16 bfloat_of(std::uint32_t bits) { return {static_cast<std::uint16_t>(bits)}; }

TEST(Half, every_value_widens_exactly_and_comes_back) {
  for (std::uint32_t bits = 0; bits < 0x10000u; ++bits) {
    const double expected = value_by_definition(bits);
    const float wide = to_float(half_of(bits));
    if (std::isnan(expected)) {
      EXPECT_TRUE(std::isnan(wide)) << bits;
      // The payload stays; a signalling NaN becomes quiet.
      EXPECT_EQ(to_half(wide).bits, bits | 0x200u) << bits;
    } else {
      EXPECT_EQ(double{wide}, expected) << bits;
      EXPECT_EQ(std::signbit(wide), (bits & 0x8000u) != 0) << bits;
      EXPECT_EQ(to_half(wide).bits, bits) << bits;
    }
  }
}

TEST(Half, rounds_to_nearest_and_ties_to_even_between_all_neighbours) {
  for (std::uint32_t sign : {0u, 0x8000u}) {
    for (std::uint32_t low = 0; low < 0x7BFFu; ++low) {  // to the largest finite one
      const float a = to_float(half_of(sign | low)), b = to_float(half_of(sign | (low + 1)));
      const float middle =
          (a + b) / 2;  // exact: a float has 13 more bits, also below the normal halves
      ASSERT_EQ(double{middle}, (double{a} + double{b}) / 2);
      EXPECT_EQ(to_half(middle).bits, sign | ((low & 1u) == 0 ? low : low + 1)) << low;
      EXPECT_EQ(to_half(std::nextafter(middle, a)).bits, sign | low) << low;
      EXPECT_EQ(to_half(std::nextafter(middle, b)).bits, sign | (low + 1)) << low;
    }
  }
}

TEST(Half, overflows_to_infinity_at_the_midpoint_above_the_largest) {
  EXPECT_EQ(to_half(65504.0f).bits, 0x7BFFu);
  EXPECT_EQ(to_half(std::nextafter(65520.0f, 0.0f)).bits, 0x7BFFu);
  EXPECT_EQ(to_half(65520.0f).bits, 0x7C00u);
  EXPECT_EQ(to_half(-65520.0f).bits, 0xFC00u);
  EXPECT_EQ(to_half(std::numeric_limits<float>::max()).bits, 0x7C00u);
  EXPECT_EQ(to_half(-std::numeric_limits<float>::infinity()).bits, 0xFC00u);
}

TEST(Half, underflows_to_a_signed_zero) {
  EXPECT_EQ(to_half(0x1p-25f).bits,
            0u);  // the tie between 0 and the smallest goes to 0, which is even
  EXPECT_EQ(to_half(std::nextafter(0x1p-25f, 1.0f)).bits, 1u);
  EXPECT_EQ(to_half(-0x1p-26f).bits, 0x8000u);
  EXPECT_EQ(to_half(std::numeric_limits<float>::denorm_min()).bits, 0u);
  EXPECT_EQ(to_half(-0.0f).bits, 0x8000u);
}

TEST(BFloat16, every_value_widens_exactly_and_comes_back) {
  for (std::uint32_t bits = 0; bits < 0x10000u; ++bits) {
    const float wide = to_float(bfloat_of(bits));
    EXPECT_EQ(std::bit_cast<std::uint32_t>(wide), bits << 16);
    EXPECT_EQ(to_bfloat16(wide).bits, std::isnan(wide) ? bits | 0x40u : bits) << bits;
  }
}

TEST(BFloat16, rounds_to_nearest_and_ties_to_even_between_all_neighbours) {
  for (std::uint32_t sign : {0u, 0x8000u}) {
    for (std::uint32_t low = 0; low < 0x7F80u; ++low) {  // up to and including the step to infinity
      const std::uint32_t middle = (sign | low) << 16 | 0x8000u;
      const auto rounded = [](std::uint32_t bits) {
        return to_bfloat16(std::bit_cast<float>(bits)).bits;
      };
      EXPECT_EQ(rounded(middle), sign | ((low & 1u) == 0 ? low : low + 1)) << low;
      EXPECT_EQ(rounded(middle - 1), sign | low) << low;
      EXPECT_EQ(rounded(middle + 1), sign | (low + 1)) << low;
    }
  }
}

TEST(BFloat16, a_nan_whose_payload_is_only_low_bits_stays_a_nan) {
  EXPECT_EQ(to_bfloat16(std::bit_cast<float>(0x7F800001u)).bits, 0x7FC0u);
  EXPECT_EQ(to_bfloat16(std::bit_cast<float>(0xFFFFFFFFu)).bits, 0xFFFFu);
  EXPECT_EQ(to_half(std::bit_cast<float>(0x7F800001u)).bits, 0x7E00u);
}

TEST(HalfTypes, convert_at_compile_time) {
  static_assert(to_half(1.0f).bits == 0x3C00 && to_float(Half{0x3C00}) == 1.0f);
  static_assert(to_bfloat16(1.0f).bits == 0x3F80 && to_float(BFloat16{0x3F80}) == 1.0f);
}

}  // namespace
}  // namespace quire

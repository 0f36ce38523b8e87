#include "quire/base/checked.h"

#include <gtest/gtest.h>

#include <limits>

namespace quire {
namespace {

constexpr std::uint64_t kMost = std::numeric_limits<std::uint64_t>::max();

TEST(Checked, adds_and_multiplies_like_the_numbers) {
  EXPECT_EQ((Checked(6) * Checked(7) + Checked(8)).value(), 50u);
  EXPECT_EQ((Checked(kMost) + Checked(0)).value(), kMost);
  EXPECT_EQ((Checked(kMost) * Checked(1)).value(), kMost);
  EXPECT_EQ((Checked(1ull << 32) * Checked((1ull << 32) - 1)).value(), 0xFFFFFFFF00000000u);
}

TEST(Checked, remembers_an_overflow_of_any_step) {
  EXPECT_FALSE((Checked(kMost) + Checked(1)).value());
  EXPECT_FALSE((Checked(1ull << 32) * Checked(1ull << 32)).value());
  // The product wraps to 0; multiplying it by 0 or adding to it must not make it good again.
  const Checked wrapped = Checked(1ull << 63) * Checked(2);
  EXPECT_TRUE(wrapped.overflowed());
  EXPECT_TRUE((wrapped * Checked(0)).overflowed());
  EXPECT_TRUE((Checked(0) * wrapped).overflowed());
  EXPECT_TRUE((Checked(5) + wrapped).overflowed());
  EXPECT_TRUE(wrapped.padded_to(32).overflowed());
}

TEST(Checked, pads_up_and_notices_when_padding_wraps) {
  EXPECT_EQ(Checked(0).padded_to(32).value(), 0u);
  EXPECT_EQ(Checked(1).padded_to(32).value(), 32u);
  EXPECT_EQ(Checked(32).padded_to(32).value(), 32u);
  EXPECT_EQ(Checked(33).padded_to(3).value(), 33u);
  EXPECT_EQ(Checked(kMost - 31).padded_to(32).value(), kMost - 31);
  EXPECT_FALSE(Checked(kMost - 30).padded_to(32).value());
  EXPECT_FALSE(Checked(kMost).padded_to(32).value());
}

TEST(Checked, compares_with_a_limit) {
  EXPECT_TRUE(Checked(10).at_most(10));
  EXPECT_FALSE(Checked(11).at_most(10));
  EXPECT_FALSE((Checked(kMost) + Checked(1)).at_most(kMost));
}

TEST(Checked, works_at_compile_time) {
  static_assert((Checked(2) * Checked(3)).padded_to(4).value() == 8);
  static_assert((Checked(kMost) + Checked(1)).overflowed());
}

}  // namespace
}  // namespace quire

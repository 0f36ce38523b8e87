#include "quire/tensor/rng.h"

#include <gtest/gtest.h>

#include <array>
#include <cmath>
#include <vector>

#include "quire/base/error.h"

namespace quire {
namespace {

using Block = std::array<std::uint32_t, 4>;

// The known answers that Random123 publishes for philox4x32 with 10 rounds.
TEST(Philox, KnownAnswers) {
  EXPECT_EQ(philox({0, 0, 0, 0}, {0, 0}), (Block{0x6627e8d5, 0xe169c58d, 0xbc57ac4c, 0x9b00dbd8}));
  constexpr std::uint32_t kOnes = 0xffffffff;
  EXPECT_EQ(philox({kOnes, kOnes, kOnes, kOnes}, {kOnes, kOnes}),
            (Block{0x408f276d, 0x41c83b0e, 0xa20bc7c6, 0x6d5451fd}));
  EXPECT_EQ(philox({0x243f6a88, 0x85a308d3, 0x13198a2e, 0x03707344}, {0xa4093822, 0x299f31d0}),
            (Block{0xd16cfe09, 0x94fdcceb, 0x5001e420, 0x24126ea1}));
}

TEST(Rng, IsThePhiloxStream) {
  Rng words(0), pairs(0);
  EXPECT_EQ(words.next_u32(), 0x6627e8d5u);
  EXPECT_EQ(words.next_u32(), 0xe169c58du);
  EXPECT_EQ(pairs.next_u64(), 0xe169c58d6627e8d5u);
  EXPECT_EQ(pairs.next_u64(), 0x9b00dbd8bc57ac4cu);
  const Block second = philox({1, 0, 0, 0}, {0, 0});
  EXPECT_EQ(pairs.next_u32(), second[0]);
}

TEST(Rng, SeedsDiffer) {
  Rng a(1), b(std::uint64_t{1} << 32);
  const Block first = philox({0, 0, 0, 0}, {0, 1});
  EXPECT_NE(a.next_u32(), first[0]);
  EXPECT_EQ(b.next_u32(), first[0]);
}

TEST(Rng, UniformHasTheMomentsOfUniform) {
  Rng rng(7);
  constexpr int kDraws = 100000;
  double sum = 0, squares = 0;
  for (int i = 0; i < kDraws; ++i) {
    const double x = rng.uniform();
    ASSERT_GE(x, 0);
    ASSERT_LT(x, 1);
    sum += x;
    squares += x * x;
  }
  EXPECT_NEAR(sum / kDraws, 0.5, 5 * std::sqrt(1.0 / 12 / kDraws));
  EXPECT_NEAR(squares / kDraws, 1.0 / 3, 5 * std::sqrt(4.0 / 45 / kDraws));
}

TEST(Rng, NormalHasTheMomentsOfNormal) {
  Rng rng(8);
  constexpr int kDraws = 100000;
  double sum = 0, squares = 0, fourths = 0;
  for (int i = 0; i < kDraws; ++i) {
    const double x = double{rng.normal()};
    ASSERT_TRUE(std::isfinite(x));
    sum += x;
    squares += x * x;
    fourths += x * x * x * x;
  }
  EXPECT_NEAR(sum / kDraws, 0, 5 / std::sqrt(kDraws));
  EXPECT_NEAR(squares / kDraws, 1, 5 * std::sqrt(2.0 / kDraws));
  EXPECT_NEAR(fourths / kDraws, 3, 5 * std::sqrt(96.0 / kDraws));
}

TEST(Rng, BelowIsUniformAndInRange) {
  Rng rng(9);
  std::vector<int> counts(7);
  constexpr int kDraws = 70000;
  for (int i = 0; i < kDraws; ++i) ++counts[rng.below(7)];
  for (const int count : counts) EXPECT_NEAR(count, kDraws / 7, 5 * std::sqrt(kDraws / 7.0));
  for (int i = 0; i < 100; ++i) ASSERT_EQ(rng.below(1), 0u);
  for (int i = 0; i < 100; ++i)
    ASSERT_LT(rng.below((std::uint64_t{1} << 63) + 1), (std::uint64_t{1} << 63) + 1);
  EXPECT_THROW(rng.below(0), ArgumentError);
}

}  // namespace
}  // namespace quire

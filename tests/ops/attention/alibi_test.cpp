#include "quire/ops/attention/alibi.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include "quire/base/error.h"

namespace quire {
namespace {

TEST(Alibi, FLA_12_B15_T25_PowersOfTwoBeginWithTheRatio) {
  EXPECT_EQ(alibi_slopes(8), (std::vector<float>{0x1p-1f, 0x1p-2f, 0x1p-3f, 0x1p-4f, 0x1p-5f,
                                                 0x1p-6f, 0x1p-7f, 0x1p-8f}));
  EXPECT_EQ(alibi_slopes(1), (std::vector<float>{0x1p-8f}));
  EXPECT_FLOAT_EQ(alibi_slopes(16)[0], 0.70710678f);
}

TEST(Alibi, FLA_12_B15_T25_OtherNumbersInterleave) {
  // Hugging Face's build_alibi_tensor of BLOOM: 6 heads are those of 4, then the 1st and 3rd of 8.
  EXPECT_EQ(alibi_slopes(6),
            (std::vector<float>{0x1p-2f, 0x1p-4f, 0x1p-6f, 0x1p-8f, 0x1p-1f, 0x1p-3f}));
  EXPECT_EQ(alibi_slopes(3), (std::vector<float>{0x1p-4f, 0x1p-8f, 0x1p-2f}));
}

TEST(Alibi, FLA_12_TheOtherRuleIsAskedForByName) {
  EXPECT_EQ(alibi_slopes(4, AlibiRule::kBoostr),
            (std::vector<float>{1, 0x1p-2f, 0x1p-4f, 0x1p-6f}));
}

TEST(Alibi, Errors) {
  for (const std::int64_t H : {0, -1, 65537}) {
    EXPECT_THAT([&] { (void)alibi_slopes(H); },
                testing::ThrowsMessage<ArgumentError>(testing::HasSubstr("alibi_slopes: H is")));
  }
}

}  // namespace
}  // namespace quire

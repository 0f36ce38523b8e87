// The model test of pool and tier at full length.
#include <gtest/gtest.h>

#include "tests/cache/tier_model.h"

namespace quire::cache {
namespace {

using test::TierModel;

TEST(TierMillion, I4_I5_I8_INF_02_a_million_random_operations_agree_with_a_shadow) {
  TierModel sound(TierModel::Disk::kSound, 11);
  sound.run(500'000);
  EXPECT_EQ(sound.errors(), 0);
  EXPECT_GT(sound.read_back(), 50'000);
  TierModel flaky(TierModel::Disk::kFlaky, 12);
  flaky.run(500'000);
  EXPECT_GT(flaky.errors(), 1'000);
  EXPECT_GT(flaky.read_back(), 50'000);
}

}  // namespace
}  // namespace quire::cache

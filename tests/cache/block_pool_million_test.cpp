// The model test of the pool at full length.
#include <gtest/gtest.h>

#include "tests/cache/block_pool_model.h"

namespace quire::cache {
namespace {

using test::BlockPoolModel;

TEST(BlockPoolMillion, I4_I5_INF_02_a_million_random_operations_agree_with_a_shadow) {
  BlockPoolModel strong(32, BlockPoolModel::Hash::kStrong, 4);
  strong.run(700'000);
  EXPECT_GT(strong.counts().evictions, 10'000);
  EXPECT_GT(strong.counts().duplicates, 3'000);
  EXPECT_GT(strong.counts().hits, 3'000);
  BlockPoolModel weak(16, BlockPoolModel::Hash::kWeak, 5);
  weak.run(300'000);
  EXPECT_GT(weak.counts().collisions, 10'000);
}

}  // namespace
}  // namespace quire::cache

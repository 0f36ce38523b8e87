#include "quire/cache/block_pool.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <chrono>
#include <thread>

#include "tests/cache/block_pool_model.h"
#include "tests/cache/steps.h"

namespace quire::cache {
namespace {

using test::BlockPoolModel;
using test::message_of;
using testing::AllOf;
using testing::HasSubstr;
using Ids = std::vector<std::int32_t>;

BlockPoolSpec spec_of(std::int64_t blocks, std::int64_t tokens = 2) {
  BlockPoolSpec spec;
  spec.blocks = blocks;
  spec.block_tokens = tokens;
  return spec;
}

void release(BlockPool& pool, Block block) { pool.release({&block, 1}); }

/// Publishes these tokens block by block, and lets go of them.
std::vector<Block> remember(BlockPool& pool, Block root, const Ids& ids) {
  std::vector<Block> chain;
  for (std::size_t n = 0; n + 2 <= ids.size(); n += 2) {
    const Block parent = chain.empty() ? root : chain.back();
    chain.push_back(pool.publish(pool.allocate(), parent, std::span(ids).subspan(n, 2)));
  }
  pool.release(chain);
  return chain;
}

TEST(BlockPool, INF_02_K2_never_frees_twice_and_keeps_its_counts) {
  BlockPool pool(spec_of(3));
  const Block a = pool.allocate(), b = pool.allocate();
  EXPECT_NE(a.index, b.index);
  EXPECT_EQ(pool.counts().held, 2);
  pool.retain({&a, 1});
  EXPECT_EQ(pool.references(a), 2);
  EXPECT_EQ(pool.counts().shared, 1);
  release(pool, a);
  release(pool, a);
  EXPECT_THAT(message_of<ArgumentError>([&] { release(pool, a); }), HasSubstr("freed"));
  const Block again = pool.allocate();  // the same place, another block
  EXPECT_EQ(again.index, a.index);
  EXPECT_THROW(release(pool, a), ArgumentError);
  EXPECT_EQ(pool.references(again), 1);
  const Block twice[] = {b, b};
  EXPECT_THROW(pool.release(twice), ArgumentError);  // all or none
  EXPECT_EQ(pool.references(b), 1);
  EXPECT_EQ(pool.counts().free, 1);
}

TEST(BlockPool, INF_02_exhaustion_names_the_budget) {
  BlockPool pool(spec_of(3, 16));
  for (int i = 0; i < 3; ++i) static_cast<void>(pool.allocate());
  EXPECT_THAT(message_of<OutOfMemory>([&] { static_cast<void>(pool.allocate()); }),
              AllOf(HasSubstr("budget of 48 tokens (3 pages of 16)"), HasSubstr("3 pages are held"),
                    HasSubstr("--budget")));
  EXPECT_EQ(pool.counts().held, 3);
}

TEST(BlockPool, INF_03_leaves_go_first_the_one_used_longest_ago_before_others) {
  BlockPool pool(spec_of(5));
  const Block root = pool.open_root("m");
  const std::vector<Block> ab = remember(pool, root, {1, 1, 2, 2}),
                           c = remember(pool, root, {3, 3, 4, 4, 5, 5});
  EXPECT_EQ(pool.counts().cached, 5);
  // The first text is asked for again: the second one is older now.
  const std::vector<Block> found = pool.match(root, Ids{1, 1, 2, 2});
  EXPECT_EQ(found, ab);
  pool.release(found);
  EXPECT_EQ(pool.allocate().index, c[2].index);
  EXPECT_EQ(pool.allocate().index, c[1].index);
  EXPECT_EQ(pool.match(root, Ids{3, 3, 4, 4}).size(), 1u);  // and is held from now on
  EXPECT_EQ(pool.allocate().index, ab[1].index);
  EXPECT_EQ(pool.allocate().index, ab[0].index);
  EXPECT_THROW(static_cast<void>(pool.allocate()), OutOfMemory);
  EXPECT_EQ(pool.counts().evictions, 4);
}

TEST(BlockPool, K4_a_collision_is_a_miss) {
  BlockPoolSpec spec = spec_of(8);
  spec.hash = [](const Hash128&, std::span<const std::int32_t>) { return Hash128{42, 42}; };
  BlockPool pool(spec);
  const Block root = pool.open_root("m"), other = pool.open_root("n");
  remember(pool, root, {1, 2});
  EXPECT_EQ(pool.match(root, Ids{1, 3}).size(), 0u);
  EXPECT_EQ(pool.match(other, Ids{1, 2}).size(), 0u);
  EXPECT_EQ(pool.counts().collisions, 2);
  const Block block = pool.publish(pool.allocate(), root, Ids{7, 8});
  EXPECT_FALSE(pool.published(block));
  EXPECT_EQ(pool.counts().collisions, 3);
  // What cannot be published has no successors either.
  const Block next = pool.publish(pool.allocate(), block, Ids{9, 9});
  EXPECT_FALSE(pool.published(next));
  EXPECT_EQ(pool.match(root, Ids{1, 2, 7, 8}).size(), 1u);
}

TEST(BlockPool, K5_names_keep_chains_apart) {
  BlockPool pool(spec_of(8));
  const Block a = pool.open_root("a"), b = pool.open_root("b");
  remember(pool, a, {1, 2});
  EXPECT_TRUE(pool.match(b, Ids{1, 2}).empty());
  const Block same = pool.open_root("a");
  EXPECT_EQ(same, a);
  EXPECT_EQ(pool.match(same, Ids{1, 2}).size(), 1u);
  pool.close_root(a);
  pool.close_root(same);
  EXPECT_THROW(pool.close_root(a), ArgumentError);
  EXPECT_EQ(pool.open_root("a"), a) << "its blocks are still there";
  pool.close_root(b);
  EXPECT_THROW(pool.close_root(b), ArgumentError);
  EXPECT_THROW((void)pool.match(b, Ids{1, 2}), ArgumentError);
}

TEST(BlockPool, K8_pins_are_bounded_and_counted) {
  BlockPoolSpec spec = spec_of(6);
  spec.most_pinned = 2;
  BlockPool pool(spec);
  const Block root = pool.open_root("m");
  const std::vector<Block> two = remember(pool, root, {1, 1, 2, 2}),
                           three = remember(pool, root, {3, 3});
  pool.pin(two);
  EXPECT_EQ(pool.counts().pinned, 2);
  EXPECT_THAT(message_of<ArgumentError>([&] { pool.pin(three); }), HasSubstr("at most 2"));
  pool.pin(two);  // twice
  for (int i = 0; i < 4; ++i) static_cast<void>(pool.allocate());
  EXPECT_THAT(message_of<OutOfMemory>([&] { static_cast<void>(pool.allocate()); }),
              HasSubstr("2 pinned"));
  pool.unpin(two);
  EXPECT_THROW(static_cast<void>(pool.allocate()), OutOfMemory);
  pool.unpin(two);
  EXPECT_THROW(pool.unpin(two), ArgumentError);
  EXPECT_EQ(pool.allocate().index, two[1].index);
  EXPECT_THROW(pool.pin({&three[0], 1}), ArgumentError) << "evicted meanwhile";
}

TEST(BlockPool, refuses_wrong_arguments) {
  for (const std::int64_t blocks :
       {std::int64_t{0}, std::int64_t{-1}, std::int64_t{1} << 31, INT64_MAX})
    EXPECT_THAT(message_of<ArgumentError>([&] { BlockPool(spec_of(blocks)); }),
                HasSubstr(std::to_string(blocks)));
  EXPECT_THROW(BlockPool(spec_of(1, 0)), ArgumentError);
  BlockPool pool(spec_of(4));
  const Block root = pool.open_root("m"), block = pool.allocate();
  EXPECT_THROW((void)pool.publish(block, root, Ids{1}), ArgumentError);
  EXPECT_THROW((void)pool.publish(block, Block{-7, 0}, Ids{1, 2}), ArgumentError);
  EXPECT_THROW((void)pool.match(Block{-1, 0}, Ids{1, 2}), ArgumentError);
  EXPECT_THROW((void)pool.references(Block{-2, 0}), ArgumentError);
  EXPECT_THROW((void)pool.references(Block{4, 0}), ArgumentError);
  EXPECT_THROW(pool.pin({&block, 1}), ArgumentError) << "not published";
  pool.retain({&block, 1});
  EXPECT_THROW((void)pool.publish(block, root, Ids{1, 2}), ArgumentError) << "shared";
}

TEST(BlockPool, I4_I5_random_operations_agree_with_a_shadow) {
  BlockPoolModel(24, BlockPoolModel::Hash::kStrong, 1).run(30'000);
  BlockPoolModel(24, BlockPoolModel::Hash::kWeak, 2).run(30'000);
  BlockPoolModel(3, BlockPoolModel::Hash::kStrong, 3).run(20'000);
}

TEST(BlockPool, K14_counters_pass_the_end_of_32_bits) {
  constexpr std::uint64_t kEnd = std::uint64_t{1} << 32;
  BlockPoolModel(4, BlockPoolModel::Hash::kStrong, 4, kEnd - 200).run(20'000);
  BlockPoolSpec spec = spec_of(4);
  spec.first_count = kEnd - 1;
  BlockPool pool(spec);
  const Block old = pool.allocate();
  release(pool, old);
  const Block now = pool.allocate();
  EXPECT_EQ(now.index, old.index);
  EXPECT_EQ(now.generation, kEnd);
  EXPECT_THROW((void)pool.references(old), ArgumentError);
}

TEST(BlockPool, K14_names_that_come_and_go_take_their_places_again) {
  BlockPool pool(spec_of(4));
  const Block kept = pool.open_root("kept"), old = pool.open_root("0");
  pool.close_root(old);
  for (int i = 1; i < 1000; ++i) {
    const Block root = pool.open_root(std::to_string(i));
    EXPECT_EQ(root.index, old.index);
    EXPECT_NE(root.generation, old.generation);
    EXPECT_THROW((void)pool.match(old, Ids{1, 2}), ArgumentError) << "another's name";
    pool.close_root(root);
  }
  EXPECT_THROW(pool.close_root(old), ArgumentError);
  EXPECT_EQ(pool.open_root("kept"), kept);
}

TEST(BlockPool, K13_many_threads_leave_the_counts_whole) {
  BlockPool pool(spec_of(64));
  std::vector<std::thread> threads;
  for (int t = 0; t < 16; ++t) {
    threads.emplace_back([&pool, t] {
      Rng rng(static_cast<std::uint64_t>(t));
      const Block root = pool.open_root("m");
      for (int round = 0; round < 300; ++round) {
        const Ids ids = {static_cast<std::int32_t>(rng.below(4)), 0,
                         static_cast<std::int32_t>(rng.below(4)), 1};
        std::vector<Block> chain = pool.match(root, ids);
        try {
          for (std::size_t n = 2 * chain.size(); n < ids.size(); n += 2) {
            const Block parent = chain.empty() ? root : chain.back();
            chain.push_back(pool.publish(pool.allocate(), parent, std::span(ids).subspan(n, 2)));
          }
        } catch (const OutOfMemory&) {
        }
        pool.retain(chain);
        pool.release(chain);
        pool.release(chain);
      }
      pool.close_root(root);
    });
  }
  for (std::thread& thread : threads) thread.join();
  const BlockCounts counts = pool.counts();
  EXPECT_EQ(counts.held, 0);
  EXPECT_EQ(counts.free + counts.cached, 64);
  EXPECT_EQ(counts.cached, 4 + 16);
}

}  // namespace
}  // namespace quire::cache

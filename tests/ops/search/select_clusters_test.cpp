#include "quire/ops/search/select_clusters.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <cmath>
#include <limits>

#include "quire/base/error.h"
#include "tests/ops/merge/keys.h"
#include "tests/reference/search.h"
#include "tests/support/message_of.h"

namespace quire::test {
namespace {

std::vector<std::uint8_t> taken(const std::vector<float>& rank,
                                const std::vector<std::int64_t>& size, std::int64_t budget,
                                std::int64_t* tokens = nullptr) {
  const auto M = static_cast<std::int64_t>(rank.size());
  const Selection found = select_clusters(Tensor::of(std::span<const float>(rank), {1, M}),
                                          index_of(size, {1, M}), budget);
  if (tokens != nullptr) *tokens = found.tokens_G.data<std::int64_t>()[0];
  const auto* at = found.taken_GM.data<std::uint8_t>();
  return {at, at + M};
}

TEST(SelectClusters, HandWorked) {
  // By rank: 3 (4 tokens), 0 and 4 (equal: 0 first), then 1, which does not fit into 12.
  const std::vector<float> rank{2, 1, 0, 5, 2};
  const std::vector<std::int64_t> size{5, 4, 1, 4, 3};
  using Taken = std::vector<std::uint8_t>;
  std::int64_t tokens = -1;
  EXPECT_EQ(taken(rank, size, 12, &tokens), (Taken{1, 0, 0, 1, 1}));
  EXPECT_EQ(tokens, 12);
  EXPECT_EQ(taken(rank, size, 15, &tokens), (Taken{1, 0, 0, 1, 1}));
  EXPECT_EQ(tokens, 12);
  EXPECT_EQ(taken(rank, size, 8), (Taken{0, 0, 0, 1, 0}));
  EXPECT_EQ(taken(rank, size, 3), (Taken{0, 0, 0, 0, 0}));
  EXPECT_EQ(taken(rank, size, 17), (Taken{1, 1, 1, 1, 1}));
}

TEST(SelectClusters, EqualsTheSort) {
  Rng rng(3);
  for (const std::size_t M : {0u, 1u, 2u, 3u, 31u, 200u}) {
    for (int round = 0; round < 20; ++round) {
      std::vector<float> rank;
      std::vector<std::int64_t> size;
      std::int64_t all = 0;
      for (std::size_t m = 0; m < M; ++m) {
        rank.push_back(static_cast<float>(rng.below(30)));  // many ties
        size.push_back(static_cast<std::int64_t>(rng.below(20)));
        all += size.back();
      }
      for (const std::int64_t budget : {std::int64_t{0}, all / 10, all / 2, all - 1, all}) {
        if (budget < 0) continue;
        std::int64_t tokens = 0, expected = 0;
        const auto found = taken(rank, size, budget, &tokens);
        ASSERT_EQ(found, ref::select(rank, size, budget)) << M << " clusters, budget " << budget;
        for (std::size_t m = 0; m < M; ++m) expected += found[m] != 0 ? size[m] : 0;
        ASSERT_EQ(tokens, expected);
      }
    }
  }
}

TEST(SelectClusters, TheBestOfManyAreThoseOfTheSort) {
  Rng rng(5);
  for (const std::int64_t n : {0, 1, 15, 64, 65, 1000}) {
    for (int round = 0; round < 20; ++round) {
      std::vector<float> rank;
      const bool ties = round % 2 == 0;
      for (std::int64_t i = 0; i < n; ++i)
        rank.push_back(ties ? static_cast<float>(rng.below(9)) : rng.normal());
      if (n > 20) rank[7] = std::numeric_limits<float>::quiet_NaN();
      for (const std::int64_t count : {std::int64_t{0}, n / 3, n - 1, n, n + 4}) {
        if (count < 0) continue;
        std::vector<std::uint8_t> found(rank.size(), 9);
        select_best(rank, count, found);
        const std::vector<std::int64_t> one(rank.size(), 1);
        std::vector<float> plain = rank;
        for (float& x : plain)
          if (x != x) x = -kInfinity;
        ASSERT_EQ(found, ref::select(plain, one, std::min(count, n))) << n << " " << count;
      }
    }
  }
  std::vector<std::uint8_t> few(2);
  EXPECT_THAT(message_of([&] { select_best(std::vector<float>(3), 1, few); }),
              testing::HasSubstr("rank has 3 numbers, and taken 2"));
}

TEST(SelectClusters, MoreMembersThanAFloatCountsAreCountedAsWell) {
  Rng rng(4);
  for (const std::int64_t most : {std::int64_t{1} << 19, std::int64_t{1} << 40}) {
    for (int round = 0; round < 20; ++round) {
      std::vector<float> rank;
      std::vector<std::int64_t> size;
      std::int64_t all = 0;
      for (std::size_t m = 0; m < 70; ++m) {
        // Signs, both zeros, numbers that hardly differ, the largest and the smallest there are.
        const float x = rng.normal();
        const float odd[] = {x, -0.0f, 0.0f, 1 + 1e-6f * x, kInfinity, -kInfinity};
        rank.push_back(odd[rng.below(6)]);
        size.push_back(static_cast<std::int64_t>(rng.below(static_cast<std::uint64_t>(most))));
        all += size.back();
      }
      for (const std::int64_t budget : {all / 10, all / 2, all - 1, all}) {
        ASSERT_EQ(taken(rank, size, budget), ref::select(rank, size, budget)) << budget;
        // The same order among few members, which floats count.
        std::vector<std::int64_t> few = size;
        for (std::int64_t& n : few) n %= 20;
        ASSERT_EQ(taken(rank, few, budget % 700), ref::select(rank, few, budget % 700)) << budget;
      }
    }
  }
}

TEST(SelectClusters, K10_OfNothingNothingAndForMoreThanThereIsAll) {
  constexpr std::int64_t kMost = std::numeric_limits<std::int64_t>::max();
  std::int64_t tokens = -1;
  for (const std::int64_t budget : {std::int64_t{0}, std::int64_t{1}, kMost}) {
    EXPECT_TRUE(taken({}, {}, budget, &tokens).empty());
    EXPECT_EQ(tokens, 0);
    EXPECT_EQ(taken({3, 1}, {0, 0}, budget, &tokens), (std::vector<std::uint8_t>{0, 0}));
    EXPECT_EQ(tokens, 0) << "clusters without members";
  }
  for (const std::int64_t budget : {std::int64_t{9}, std::int64_t{10}, kMost}) {
    EXPECT_EQ(taken({1, 5, kNan}, {4, 3, 2}, budget, &tokens),
              (std::vector<std::uint8_t>{1, 1, 1}));
    EXPECT_EQ(tokens, 9);
  }
}

TEST(SelectClusters, NaNRanksLast) {
  EXPECT_EQ(taken({kNan, -1, kInfinity}, {1, 1, 1}, 2), (std::vector<std::uint8_t>{0, 1, 1}));
}

TEST(SelectClusters, Errors) {
  const auto has = [](const std::string& text, const char* part) {
    return text.find(part) != std::string::npos;
  };
  EXPECT_TRUE(has(message_of([] { taken({1}, {1}, -1); }), "budget_tokens is -1"));
  EXPECT_TRUE(has(message_of([] { taken({1}, {-1}, 1); }), "size_GM has -1"));
  EXPECT_TRUE(has(
      message_of([] {
        select_clusters(Tensor::zeros({1, 2}, DType::kF32), Tensor::zeros({1, 3}, DType::kI64), 1);
      }),
      "M"));
}

}  // namespace
}  // namespace quire::test

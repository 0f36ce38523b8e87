#include "quire/cache/cluster_index.h"

#include <gtest/gtest.h>

#include <algorithm>
#include <cmath>
#include <numeric>
#include <vector>

#include "quire/cache/cluster_pages.h"
#include "quire/cache/token_rows.h"
#include "tests/cache/steps.h"

namespace quire::cache {
namespace {

using test::layer_of;

TEST(ClusterPages, rows_of_one_kind_stand_side_by_side) {
  // Eight kinds of sixteen rows, mixed.
  constexpr std::int64_t K = 12, M = 128;
  Rng rng(1);
  const Tensor kind = test::random(rng, {8, K}), noise = test::random(rng, {M, K});
  std::vector<float> x(static_cast<std::size_t>(M * K));
  for (std::int64_t m = 0; m < M; ++m)
    for (std::int64_t k = 0; k < K; ++k)
      x[static_cast<std::size_t>(m * K + k)] =
          4 * kind.data<float>()[m % 8 * K + k] + 0.1f * noise.data<float>()[m * K + k];
  const std::vector<std::int64_t> order = in_pages(x.data(), M, K, 16);
  for (std::int64_t page = 0; page < 8; ++page)
    for (std::int64_t i = 0; i < 16; ++i)
      EXPECT_EQ(order[static_cast<std::size_t>(page * 16 + i)] % 8,
                order[static_cast<std::size_t>(page * 16)] % 8);
}

TEST(ClusterPages, every_row_has_one_place_whatever_the_rows_are) {
  for (const std::int64_t M : {0, 1, 15, 16, 17, 33, 250}) {
    for (const float number : {0.0f, 1.0f, 1e30f, NAN}) {
      const std::vector<float> x(static_cast<std::size_t>(M * 4), number);
      std::vector<std::int64_t> order = in_pages(x.data(), M, 4, 16), all(order.size());
      std::sort(order.begin(), order.end());
      std::iota(all.begin(), all.end(), 0);
      EXPECT_EQ(order, all);
      EXPECT_EQ(static_cast<std::int64_t>(order.size()), M);
    }
  }
}

/// The variances of the numbers of a cluster's keys, added up.
double variance_of(const Tensor& k_NGK, std::span<const std::int32_t> members, std::int64_t g) {
  const std::int64_t G = k_NGK.size(1), K = k_NGK.size(2);
  double sum = 0;
  for (std::int64_t k = 0; k < K; ++k) {
    double mean = 0, square = 0;
    for (const std::int32_t s : members) {
      const double x = k_NGK.data<float>()[(s * G + g) * K + k];
      mean += x / static_cast<double>(members.size());
      square += x * x / static_cast<double>(members.size());
    }
    sum += square - mean * mean;
  }
  return sum;
}

TEST(ClusterIndex, spread_is_the_variance_of_a_cluster_and_the_profile_where_it_lies) {
  const LayerSpec layer = layer_of(4, 2, 16, 16);
  Rng rng(2);
  Tensor k = test::random(rng, {1024, 2, 16});
  // The first numbers of the second head's keys are all that differs.
  for (std::int64_t n = 0; n < 1024; ++n)
    for (std::int64_t i = 4; i < 16; ++i) k.mutable_data<float>()[(n * 2 + 1) * 16 + i] = 0.5f;
  for (const DType kv : {DType::kF32, DType::kF16, DType::kI8}) {
    TokenRows rows(layer, 1024, kv);
    rows.write(k, test::random(rng, {1024, 2, 16}), 0);
    const std::int64_t n = 1024;
    KvView tokens = rows.stretch(0, n);
    tokens.length_BG = &n;
    ClusterIndex index(layer, 1024, 256, kv, {.tokens_per_cluster = 8});
    index.add(tokens, 0, n);
    for (std::int64_t g = 0; g < 2; ++g) {
      const std::span<const float> profile = index.profile(g);
      EXPECT_NEAR(std::accumulate(profile.begin(), profile.end(), 0.0), 16, 1e-3);
      for (std::size_t i = 4; g == 1 && i < 16; ++i) EXPECT_LT(profile[i], 0.01) << to_string(kv);
      for (std::int64_t m = 0; m < index.pages() * ClusterIndex::kPage; ++m) {
        if (index.members(g, m).empty()) continue;
        const double expected = variance_of(k, index.members(g, m), g) / 16;
        EXPECT_NEAR(double{index.spread()[static_cast<std::size_t>(m * 2 + g)]}, expected,
                    0.02 * expected + 1e-3)
            << to_string(kv);
      }
    }
  }
}

}  // namespace
}  // namespace quire::cache

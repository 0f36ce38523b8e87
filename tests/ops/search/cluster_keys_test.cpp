#include "quire/ops/search/cluster_keys.h"

#include <gtest/gtest.h>

#include <cmath>

#include "quire/base/error.h"
#include "quire/base/thread_pool.h"
#include "quire/ops/merge/sequence_view.h"
#include "tests/ops/merge/keys.h"
#include "tests/reference/search.h"
#include "tests/support/message_of.h"

namespace quire::test {
namespace {

/// Keys around `topics` centres, with a common part that is larger than either.
Tensor topical(std::int64_t G, std::int64_t S, std::int64_t K, std::int64_t topics,
               double noise_size, std::uint64_t seed) {
  const std::vector<double> centre = values(random_tensor({topics, K}, seed)),
                            noise = values(random_tensor({G, S, K}, seed + 1));
  Rng rng(seed + 2);
  std::vector<double> out;
  for (std::int64_t g = 0; g < G; ++g) {
    for (std::int64_t s = 0; s < S; ++s) {
      const auto topic = static_cast<std::int64_t>(rng.below(static_cast<std::uint64_t>(topics)));
      for (std::int64_t k = 0; k < K; ++k)
        out.push_back(3 + centre[static_cast<std::size_t>(topic * K + k)] +
                      noise_size * noise[static_cast<std::size_t>((g * S + s) * K + k)]);
    }
  }
  return floats(out, {G, S, K});
}

std::vector<std::int64_t> row(const Tensor& x, std::int64_t g) {
  const auto* at = x.data<std::int64_t>() + g * x.size(1);
  return {at, at + x.size(1)};
}

/// Members, starts and groups say the same, in order, of slots [begin, end).
void expect_whole(const Clusters& found, std::int64_t begin, std::int64_t end,
                  std::int64_t largest) {
  for (std::int64_t g = 0; g < found.group_GS.size(0); ++g) {
    const auto group = row(found.group_GS, g), member = row(found.member_GN, g),
               start = row(found.start_GJ, g);
    std::vector<int> seen(group.size());
    const std::int64_t groups = found.groups_G.data<std::int64_t>()[g];
    ASSERT_LE(groups, found.groups);
    ASSERT_EQ(start.front(), 0);
    for (std::size_t m = 0; m + 1 < start.size(); ++m) {
      const std::int64_t count = start[m + 1] - start[m];
      EXPECT_LE(count, largest);
      EXPECT_EQ(count > 0, static_cast<std::int64_t>(m) < groups) << m;
      for (std::int64_t i = start[m]; i < start[m + 1]; ++i) {
        const std::int64_t s = member[static_cast<std::size_t>(i)];
        EXPECT_TRUE(i == start[m] || member[static_cast<std::size_t>(i - 1)] < s);
        EXPECT_EQ(group[static_cast<std::size_t>(s)], static_cast<std::int64_t>(m));
        ++seen[static_cast<std::size_t>(s)];
      }
    }
    for (std::size_t s = 0; s < seen.size(); ++s) {
      const auto slot = static_cast<std::int64_t>(s);
      EXPECT_EQ(seen[s], slot >= begin && slot < end ? 1 : 0) << s;
      EXPECT_EQ(group[s] >= 0, slot >= begin && slot < end) << s;
    }
  }
}

TEST(ClusterKeys, HandWorked) {
  // Two directions from the mean, whatever the lengths.
  std::vector<double> k;
  for (int s = 0; s < 32; ++s) {
    k.push_back(7 + (s % 3 == 0 ? 1 : -1) * (1 + s % 5));
    k.push_back(-2);
  }
  const Tensor keys = floats(k, {1, 32, 2});
  const SequenceView view(keys);
  const Clusters found = cluster_keys(view.kv(), 0, 0, 32);
  EXPECT_EQ(found.groups, 2);
  const auto group = row(found.group_GS, 0);
  for (std::size_t s = 0; s < 32; ++s) EXPECT_EQ(group[s] == group[0], s % 3 == 0) << s;
  expect_whole(found, 0, 32, 64);
}

TEST(ClusterKeys, AsGoodAsInDoublePrecision) {
  for (const std::int64_t K : {20, 64}) {
    for (const double noise : {0.3, 1.0}) {
      const std::int64_t S = 640;
      const Tensor k = topical(2, S, K, 30, noise, 4);
      const SequenceView view(k);
      ClusterSpec spec;
      spec.largest = 1000;
      const Clusters found = cluster_keys(view.kv(), 0, 0, S, spec);
      for (std::int64_t g = 0; g < 2; ++g) {
        const auto keys = rows_of(view.kv(), 0, g, false);
        const auto truth = ref::spherical_k_means(keys, static_cast<std::size_t>(K), 40, 5);
        const double ours = ref::spread(keys, static_cast<std::size_t>(K), row(found.group_GS, g),
                                        static_cast<std::size_t>(found.groups)),
                     best = ref::spread(keys, static_cast<std::size_t>(K), truth, 40);
        // Other clusters may be as good; 8 bits must not cost a fiftieth.
        EXPECT_LE(ours, 1.02 * best) << "K " << K << ", noise " << noise;
      }
    }
  }
}

TEST(ClusterKeys, SegmentsAreApart) {
  const std::int64_t S = 1000;
  const Tensor k = topical(2, S, 16, 20, 0.5, 8);
  const SequenceView view(k);
  ClusterSpec spec;
  spec.segment = 256;
  const Clusters found = cluster_keys(view.kv(), 0, 16, 991, spec);
  expect_whole(found, 16, 991, 64);
  // Four segments of 256, 256, 256 and 207 keys: no cluster reaches into two.
  for (const std::int64_t g : {0, 1}) {
    const auto group = row(found.group_GS, g);
    std::int64_t last = -1;
    for (std::size_t at = 16; at < 991; at += 256) {
      const auto end = std::min<std::size_t>(at + 256, 991);
      const auto [low, high] =
          std::minmax_element(group.begin() + static_cast<std::ptrdiff_t>(at),
                              group.begin() + static_cast<std::ptrdiff_t>(end));
      EXPECT_GT(*low, last);
      last = *high;
    }
    EXPECT_EQ(last + 1, found.groups_G.data<std::int64_t>()[g]);
  }
}

TEST(ClusterKeys, LargeClustersAreSplitByPosition) {
  // All keys the same: one cluster of 200.
  const Tensor k = floats(std::vector<double>(200 * 8, 1.5), {1, 200, 8});
  const SequenceView view(k);
  const Clusters found = cluster_keys(view.kv(), 0, 0, 200);
  EXPECT_EQ(found.groups, 4);
  expect_whole(found, 0, 200, 50);
  EXPECT_EQ(row(found.start_GJ, 0), (std::vector<std::int64_t>{0, 50, 100, 150, 200}));
}

TEST(ClusterKeys, EveryEdge) {
  for (const std::int64_t n : {0, 1, 15, 16, 17, 63, 64, 65, 129}) {
    const Tensor k = topical(1, n + 32, 24, 5, 0.5, 3);
    const SequenceView view(k);
    const Clusters found = cluster_keys(view.kv(), 0, 16, 16 + n);
    expect_whole(found, 16, 16 + n, 64);
    EXPECT_LE(found.groups, (n + 15) / 16 + n / 64) << n;
  }
}

TEST(ClusterKeys, AnyFormOfPages) {
  for (const PagedForm& form : paged_forms()) {
    const PagedCase pages(form, {70, 320});
    const Clusters found = cluster_keys(pages.view(), 1, 16, 320);
    expect_whole(found, 16, 320, 64);
    for (const std::int64_t g : {0, 1}) {
      auto keys = rows_of(pages.view(), 1, g, false);
      keys.erase(keys.begin(), keys.begin() + 16 * 20);
      auto group = row(found.group_GS, g);
      group.erase(group.begin(), group.begin() + 16);
      const auto truth = ref::spherical_k_means(keys, 20, 19, 5);
      EXPECT_LE(ref::spread(keys, 20, group, static_cast<std::size_t>(found.groups)),
                1.02 * ref::spread(keys, 20, truth, 19))
          << to_string(form.dtype) << ", pages of " << form.Z;
    }
  }
}

TEST(ClusterKeys, ThreadsAndPagesChangeNoBit) {
  std::vector<Clusters> all;
  for (const int threads : {1, 2, 5}) {
    for (const std::uint64_t order : {std::uint64_t{0}, std::uint64_t{1}}) {
      PagedForm form;
      form.G = 3;
      form.order = order;
      set_threads(threads);
      const PagedCase pages(form, {1500});
      all.push_back(cluster_keys(pages.view(), 0, 0, 1500));
      EXPECT_TRUE(same_bits(all[0].group_GS, all.back().group_GS));
      EXPECT_TRUE(same_bits(all[0].member_GN, all.back().member_GN));
      EXPECT_TRUE(same_bits(all[0].start_GJ, all.back().start_GJ));
    }
  }
  set_threads(2);
}

TEST(ClusterKeys, NaNAndInfinityKeepEveryKeyInOneCluster) {
  std::vector<double> numbers = values(topical(1, 200, 16, 5, 0.5, 3));
  numbers[16 * 9] = std::numeric_limits<double>::quiet_NaN();
  numbers[16 * 80] = std::numeric_limits<double>::infinity();
  const Tensor k = floats(numbers, {1, 200, 16});
  const SequenceView view(k);
  expect_whole(cluster_keys(view.kv(), 0, 0, 200), 0, 200, 64);
}

TEST(ClusterKeys, Errors) {
  const Tensor k = topical(1, 200, 16, 5, 0.5, 3);
  const SequenceView view(k);
  const auto has = [](const std::string& text, const char* part) {
    return text.find(part) != std::string::npos;
  };
  const auto message = [&](std::int64_t begin, std::int64_t end, const ClusterSpec& spec) {
    return message_of([&] { cluster_keys(view.kv(), 0, begin, end, spec); });
  };
  EXPECT_TRUE(has(message(8, 100, {}), "slots [8, 100)"));
  EXPECT_TRUE(has(message(0, 201, {}), "slots [0, 201) of 200"));
  ClusterSpec spec;
  spec.segment = 100;
  EXPECT_TRUE(has(message(0, 200, spec), "spec.segment is 100"));
  spec = {};
  spec.iterations = 0;
  EXPECT_TRUE(has(message(0, 200, spec), "spec.iterations is 0"));
  const Tensor wide = k.to(DType::kF64);
  const SequenceView doubles(wide);
  EXPECT_TRUE(has(message_of([&] { cluster_keys(doubles.kv(), 0, 0, 200); }), "f64"));
}

}  // namespace
}  // namespace quire::test

#include "quire/ops/merge/match_neighbours.h"

#include <gtest/gtest.h>

#include <cmath>
#include <map>
#include <numeric>

#include "quire/base/error.h"
#include "quire/base/thread_pool.h"
#include "quire/ops/merge/sequence_view.h"
#include "tests/ops/merge/keys.h"
#include "tests/reference/merge.h"
#include "tests/support/message_of.h"

namespace quire::test {
namespace {

MatchSpec spec_of(std::int64_t window, double threshold) {
  MatchSpec spec;
  spec.window = window;
  spec.threshold = threshold;
  return spec;
}

std::vector<std::int64_t> groups_of(const Matching& found, std::int64_t g) {
  const std::int64_t S = found.group_GS.size(1);
  const auto* at = found.group_GS.data<std::int64_t>() + g * S;
  return {at, at + S};
}

/// The pairs that the reference's candidates give under cap and limit, as groups by position.
std::vector<std::int64_t> naive_groups(const std::vector<ref::Match>& found, double threshold,
                                       std::int64_t cap, std::int64_t merges) {
  std::vector<std::size_t> order;
  for (std::size_t s = 1; s < found.size(); s += 2)
    if (found[s].partner >= 0 && found[s].cosine >= threshold) order.push_back(s);
  std::stable_sort(order.begin(), order.end(),
                   [&](std::size_t a, std::size_t b) { return found[a].cosine > found[b].cosine; });
  std::map<std::size_t, std::int64_t> size;
  std::vector<std::size_t> first(found.size());
  std::iota(first.begin(), first.end(), std::size_t{0});
  for (const std::size_t s : order) {
    const auto to = static_cast<std::size_t>(found[s].partner);
    if (merges == 0 || size[to] == cap - 1) continue;
    ++size[to];
    --merges;
    first[s] = to;
  }
  std::vector<std::int64_t> out(found.size(), -1);
  std::int64_t groups = 0;
  for (std::size_t s = 0; s < found.size(); ++s) {
    if (out[first[s]] < 0) out[first[s]] = groups++;
    out[s] = out[first[s]];
  }
  return out;
}

/// Keys in runs of similar ones.
Tensor runs(std::int64_t G, std::int64_t S, std::int64_t K, std::uint64_t seed) {
  std::vector<double> topic = values(random_tensor({G, S / 8 + 1, K}, seed)),
                      noise = values(random_tensor({G, S, K}, seed + 1)), out;
  for (std::int64_t g = 0; g < G; ++g)
    for (std::int64_t s = 0; s < S; ++s)
      for (std::int64_t k = 0; k < K; ++k)
        out.push_back(topic[static_cast<std::size_t>((g * (S / 8 + 1) + s / 8) * K + k)] +
                      0.5 * noise[static_cast<std::size_t>((g * S + s) * K + k)]);
  return floats(out, {G, S, K});
}

TEST(MatchNeighbours, HandWorked) {
  // Keys 1 and 3 are as similar to 0 and 2; 5 is like 4 less than the threshold asks.
  const Tensor k = floats({1, 0, 2, 0, 1, 0, 0, 1, 0, -1, 1, -1}, {1, 6, 2});
  const SequenceView view(k);
  const Matching found = match_neighbours(view.kv(), 0, spec_of(64, 0.8));
  EXPECT_EQ(groups_of(found, 0), (std::vector<std::int64_t>{0, 0, 1, 2, 3, 4}));
  EXPECT_EQ(found.groups, 5);
  EXPECT_FLOAT_EQ(found.cosine_GS.data<float>()[1], 1.0f);
  const Matching loose = match_neighbours(view.kv(), 0, spec_of(64, 0.7));
  // 5 is as like 0 as 4: the lowest wins.
  EXPECT_EQ(groups_of(loose, 0), (std::vector<std::int64_t>{0, 0, 1, 2, 3, 0}));
  EXPECT_FLOAT_EQ(loose.cosine_GS.data<float>()[5], std::sqrt(0.5f));
}

TEST(MatchNeighbours, EqualsTheNaiveLoop) {
  for (const std::int64_t S : {1, 2, 63, 64, 65, 200}) {
    for (const std::int64_t window : {1, 7, 64, 100}) {
      const Tensor k = runs(2, S, 24, 5);
      const SequenceView view(k);
      std::vector<std::int64_t> position(static_cast<std::size_t>(S));
      std::iota(position.begin(), position.end(), 0);
      for (const std::int64_t cap : {2, 8}) {
        MatchSpec spec = spec_of(window, 0.5);
        spec.group_cap = cap;
        if (cap == 8) spec.merges = S / 3;
        const Matching found = match_neighbours(view.kv(), 0, spec);
        for (const std::int64_t g : {0, 1}) {
          const auto pairs =
              ref::match_neighbours(rows_of(view.kv(), 0, g, false), 24, position, window,
                                    std::vector<std::uint8_t>(static_cast<std::size_t>(S)));
          const auto expected = naive_groups(pairs, 0.5, cap, spec.merges);
          EXPECT_EQ(groups_of(found, g), expected) << S << " keys, window " << window;
          EXPECT_EQ(found.groups_G.data<std::int64_t>()[g],
                    1 + *std::max_element(expected.begin(), expected.end()));
        }
      }
    }
  }
}

TEST(MatchNeighbours, PositionsMeasureTheWindow) {
  const std::int64_t S = 150;
  const Tensor k = runs(1, S, 16, 9);
  const SequenceView view(k);
  std::vector<std::int64_t> position;
  for (std::int64_t s = 0; s < S; ++s) position.push_back(3 * s + s % 3);
  const Matching found =
      match_neighbours(view.kv(), 0, spec_of(10, 0.3), std::nullopt, index_of(position, {1, S}));
  const auto pairs = ref::match_neighbours(rows_of(view.kv(), 0, 0, false), 16, position, 10,
                                           std::vector<std::uint8_t>(static_cast<std::size_t>(S)));
  EXPECT_EQ(groups_of(found, 0), naive_groups(pairs, 0.3, 8, INT64_MAX));
}

TEST(MatchNeighbours, ProtectedKeysStayAlone) {
  const std::int64_t S = 130;
  const Tensor k = runs(1, S, 16, 9);
  const SequenceView view(k);
  std::vector<std::uint8_t> excluded(static_cast<std::size_t>(S));
  for (const std::size_t s : {0u, 1u, 4u, 7u, 20u, 33u, 128u, 129u}) excluded[s] = 1;
  const Matching found = match_neighbours(
      view.kv(), 0, spec_of(64, 0.2), Tensor::of(std::span<const std::uint8_t>(excluded), {1, S}));
  std::vector<std::int64_t> position(static_cast<std::size_t>(S));
  std::iota(position.begin(), position.end(), 0);
  const auto pairs =
      ref::match_neighbours(rows_of(view.kv(), 0, 0, false), 16, position, 64, excluded);
  EXPECT_EQ(groups_of(found, 0), naive_groups(pairs, 0.2, 8, INT64_MAX));
  const auto groups = groups_of(found, 0);
  for (std::size_t s = 0; s < groups.size(); ++s)
    EXPECT_TRUE(excluded[s] == 0 || std::count(groups.begin(), groups.end(), groups[s]) == 1) << s;
}

TEST(MatchNeighbours, CentredKeysAreComparedLessTheirMean) {
  // A common part of 10 makes all cosines large; without it two kinds of keys remain.
  std::vector<double> k;
  for (int s = 0; s < 40; ++s) {
    k.push_back(10);
    k.push_back(s % 4 < 2 ? 1 : -1);
  }
  const Tensor keys = floats(k, {1, 40, 2});
  const SequenceView view(keys);
  MatchSpec spec = spec_of(2, 0.8);
  EXPECT_EQ(match_neighbours(view.kv(), 0, spec).groups, 20);
  spec.centre = Centre::kMean;
  const auto groups = groups_of(match_neighbours(view.kv(), 0, spec), 0);
  for (std::size_t s = 1; s < groups.size(); s += 2) EXPECT_EQ(groups[s], groups[s - 1]);
  // Keys of the other kind are not similar at all.
  EXPECT_EQ(match_neighbours(view.kv(), 0, spec).groups, 20);
  spec.threshold = -1;
  spec.window = 1;
  EXPECT_EQ(groups_of(match_neighbours(view.kv(), 0, spec), 0)[3], 1);
}

TEST(MatchNeighbours, KVM_07_KeysLieInPagesOfAnyForm) {
  for (const PagedForm& form : paged_forms()) {
    const PagedCase pages(form, {70, 131});
    std::vector<std::int64_t> position(131);
    std::iota(position.begin(), position.end(), 0);
    const Matching found = match_neighbours(pages.view(), 1, spec_of(64, 0.1));
    for (const std::int64_t g : {0, 1}) {
      const auto pairs = ref::match_neighbours(rows_of(pages.view(), 1, g, false), 20, position, 64,
                                               std::vector<std::uint8_t>(131));
      EXPECT_EQ(groups_of(found, g), naive_groups(pairs, 0.1, 8, INT64_MAX))
          << to_string(form.dtype) << ", pages of " << form.Z;
    }
  }
}

TEST(MatchNeighbours, ThreadsChangeNoBitAndNaNStaysAlone) {
  std::vector<double> numbers = values(runs(2, 200, 16, 3));
  numbers[16 * 9] = std::numeric_limits<double>::quiet_NaN();
  numbers[16 * 10] = std::numeric_limits<double>::infinity();
  const Tensor k = floats(numbers, {2, 200, 16});
  const SequenceView view(k);
  set_threads(1);
  const Matching one = match_neighbours(view.kv(), 0, spec_of(64, 0.5));
  const auto groups = groups_of(one, 0);
  EXPECT_EQ(std::count(groups.begin(), groups.end(), groups[9]), 1);
  EXPECT_EQ(std::count(groups.begin(), groups.end(), groups[10]), 1);
  for (const int threads : {2, 5}) {
    set_threads(threads);
    const Matching many = match_neighbours(view.kv(), 0, spec_of(64, 0.5));
    EXPECT_TRUE(same_bits(one.group_GS, many.group_GS));
    EXPECT_TRUE(same_bits(one.cosine_GS, many.cosine_GS));
  }
  set_threads(2);
}

TEST(ProtectedKeys, SinksRecentAndHeavyOnes) {
  std::vector<double> mass(20, 1);
  mass[5] = 3;
  mass[9] = 2;
  mass[12] = 2;
  const auto kept = [&](std::int64_t sinks, std::int64_t recent, double heavy) {
    return values(protected_keys(floats(mass, {1, 20}), {sinks, recent, heavy}));
  };
  std::vector<double> expected(20);
  expected[0] = expected[1] = expected[19] = expected[5] = expected[9] = 1;
  // ⌈0.1 · 20⌉ = 2: the largest, and of two equal ones the lower.
  EXPECT_EQ(kept(2, 1, 0.1), expected);
  EXPECT_EQ(kept(20, 20, 0), std::vector<double>(20, 1));
  EXPECT_EQ(kept(0, 0, 0), std::vector<double>(20, 0));
  EXPECT_EQ(kept(0, 0, 1), std::vector<double>(20, 1));
}

TEST(MatchNeighbours, Errors) {
  const Tensor k = random_tensor({2, 7, 6}, 1, DType::kF32);
  const SequenceView view(k);
  const auto message = [&](MatchSpec spec) {
    return message_of([&] { match_neighbours(view.kv(), 0, spec); });
  };
  const auto has = [](const std::string& text, const char* part) {
    return text.find(part) != std::string::npos;
  };
  EXPECT_TRUE(has(message(spec_of(0, 0.5)), "spec.window is 0"));
  EXPECT_TRUE(has(message(spec_of(1, 1.5)), "spec.threshold is 1.5"));
  MatchSpec cap;
  cap.group_cap = 1;
  EXPECT_TRUE(has(message(cap), "spec.group_cap is 1"));
  EXPECT_TRUE(has(message_of([&] {
                    match_neighbours(view.kv(), 0, {}, Tensor::zeros({2, 6}, DType::kU8));
                  }),
                  "protected_GS is u8 [2, 6]"));
  EXPECT_TRUE(
      has(message_of([&] {
            match_neighbours(view.kv(), 0, {}, std::nullopt, Tensor::zeros({2, 7}, DType::kI64));
          }),
          "does not ascend at 1"));
  EXPECT_TRUE(has(message_of([&] {
                    protected_keys(Tensor::zeros({2, 7}, DType::kF32), {1, 1, 1.5});
                  }),
                  "spec.heavy is 1.5"));
}

}  // namespace
}  // namespace quire::test

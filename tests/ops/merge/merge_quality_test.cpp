// What merging costs the output of attention, beside leaving keys out: the report of one budget.

#include <gtest/gtest.h>

#include <algorithm>
#include <cmath>
#include <cstdio>
#include <numeric>

#include "quire/ops/attention/attention.h"
#include "quire/ops/attention/attention_mass.h"
#include "quire/ops/merge/fit_bias.h"
#include "quire/ops/merge/group_mean.h"
#include "quire/ops/merge/match_neighbours.h"
#include "quire/ops/merge/sequence_view.h"
#include "tests/ops/merge/keys.h"

namespace quire::test {
namespace {

constexpr std::int64_t S = 1024, K = 32, N = 64, kSinks = 4;

/// One head: keys in runs of 8 about one topic, queries near topics.
struct Document {
  Tensor k, v, probes, queries;

  Document() {
    const auto topic = values(random_tensor({40, K}, 1)), noise = values(random_tensor({S, K}, 2)),
               v_topic = values(random_tensor({40, K}, 3)),
               v_noise = values(random_tensor({S, K}, 4));
    Rng rng(5);
    std::vector<double> keys, numbers;
    std::int64_t at = 0;
    for (std::int64_t s = 0; s < S; ++s) {
      if (s % 8 == 0) at = static_cast<std::int64_t>(rng.below(40));
      for (std::int64_t i = 0; i < K; ++i) {
        const auto t = static_cast<std::size_t>(at * K + i),
                   x = static_cast<std::size_t>(s * K + i);
        keys.push_back(topic[t] + 0.3 * noise[x]);
        numbers.push_back(v_topic[t] + 0.5 * v_noise[x]);
      }
    }
    k = floats(keys, {1, S, K});
    v = floats(numbers, {1, S, K});
    probes = near_topics(topic, 6);
    queries = near_topics(topic, 7);
  }
  static Tensor near_topics(const std::vector<double>& topic, std::uint64_t seed) {
    const auto noise = values(random_tensor({N, K}, seed));
    std::vector<double> out;
    for (std::int64_t n = 0; n < N; ++n)
      for (std::int64_t i = 0; i < K; ++i)
        out.push_back(topic[static_cast<std::size_t>(n * 7 % 40 * K + i)] +
                      0.5 * noise[static_cast<std::size_t>(n * K + i)]);
    return floats(out, {N, 1, K});
  }
};

AttentionSpec all_keys() {
  AttentionSpec spec;
  spec.window_right = kUnlimited;
  return spec;
}

Tensor start_of() {
  const std::int32_t start[] = {0, N};
  return Tensor::of(std::span<const std::int32_t>(start), {2});
}

AttentionResult attend(const Tensor& q, const Tensor& k, const Tensor& v, const Tensor& bias) {
  const SequenceView view(k, v);
  KvView kv = view.kv();
  kv.bias = bias.data<float>();
  return attention(q, start_of(), kv, all_keys());
}

double error(const Tensor& found, const Tensor& truth) {
  const auto a = values(found), b = values(truth);
  double off = 0, size = 0;
  for (std::size_t i = 0; i < a.size(); ++i) {
    off += (a[i] - b[i]) * (a[i] - b[i]);
    size += b[i] * b[i];
  }
  return std::sqrt(off / size);
}

/// Bias −inf for all but the `kept` keys of the largest score.
Tensor keep(const std::vector<double>& score, std::int64_t kept) {
  std::vector<std::size_t> order(score.size());
  std::iota(order.begin(), order.end(), std::size_t{0});
  std::stable_sort(order.begin(), order.end(),
                   [&](std::size_t a, std::size_t b) { return score[a] > score[b]; });
  std::vector<double> bias(score.size(), -double{kInfinity});
  for (std::size_t i = 0; i < static_cast<std::size_t>(kept); ++i) bias[order[i]] = 0;
  return floats(bias, {1, S});
}

TEST(MergeQuality, KVM_08_MergedKeysBesideEvictedOnes) {
  const Document doc;
  const SequenceView view(doc.k, doc.v);
  const Tensor none = Tensor::zeros({1, S}, DType::kF32);
  const AttentionResult probed = attend(doc.probes, doc.k, doc.v, none),
                        whole = attend(doc.queries, doc.k, doc.v, none);
  const Tensor mass =
      attention_mass(doc.probes, start_of(), view.kv(), all_keys(), probed.lse_NH).view({1, S});

  MatchSpec pairs;
  pairs.merges = S * 45 / 100;
  pairs.threshold = 0.5;
  const Matching found =
      match_neighbours(view.kv(), 0, pairs, protected_keys(mass, {kSinks, 32, 0.02}));
  const std::int64_t kept = found.groups;
  ASSERT_EQ(kept, S - pairs.merges);

  std::vector<double> recency(static_cast<std::size_t>(S));
  for (std::size_t s = 0; s < recency.size(); ++s)
    recency[s] = static_cast<double>(s < kSinks ? s + S : s);
  const auto merged = [&](const KeyNumbers& numbers, GroupBias bias) {
    GroupMeanSpec spec;
    spec.bias = bias;
    return group_mean(view.kv(), 0, found.group_GS, kept, numbers, spec);
  };
  const auto measured = [&](const MergedKeys& keys, const Tensor& bias) {
    return error(attend(doc.queries, keys.k_GMK, keys.v_GMU, bias).out_NHU, whole.out_NHU);
  };
  const KeyNumbers weights{mass, std::nullopt, std::nullopt};
  const MergedKeys plain = merged({}, GroupBias::kNone), counted = merged({}, GroupBias::kLogCount),
                   weighted = merged(weights, GroupBias::kLogCount);
  const Tensor fitted = fit_bias(doc.probes, probed.lse_NH, view.kv(), 0, found.group_GS, weighted);
  const double window =
      error(attend(doc.queries, doc.k, doc.v, keep(recency, kept)).out_NHU, whole.out_NHU);
  const double heavy =
      error(attend(doc.queries, doc.k, doc.v, keep(values(mass), kept)).out_NHU, whole.out_NHU);
  const double mean = measured(plain, plain.bias_GM), count = measured(counted, counted.bias_GM),
               carried = measured(weighted, weighted.bias_GM), fit = measured(weighted, fitted);
  std::printf(
      "%lld of %lld keys kept, relative error of the output: sinks and recent %.3f, heavy "
      "hitters %.3f, mean %.3f, mean and count %.3f, weighted and count %.3f, fitted %.3f\n",
      static_cast<long long>(kept), static_cast<long long>(S), window, heavy, mean, count, carried,
      fit);
  EXPECT_LT(count, 0.8 * mean);
  EXPECT_LT(carried, count);
  EXPECT_LE(fit, carried);
  EXPECT_LT(carried, heavy);
  EXPECT_LT(carried, window);
}

}  // namespace
}  // namespace quire::test

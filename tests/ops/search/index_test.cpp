// Clusters, estimates and selection together: what a cache makes of them, beside full attention.

#include <gtest/gtest.h>

#include <algorithm>
#include <cmath>
#include <numeric>

#include "quire/ops/attention/attention.h"
#include "quire/ops/merge/group_mean.h"
#include "quire/ops/merge/sequence_view.h"
#include "quire/ops/search/cluster_keys.h"
#include "quire/ops/search/cluster_mass.h"
#include "quire/ops/search/select_clusters.h"
#include "tests/ops/merge/keys.h"

namespace quire::test {
namespace {

constexpr std::int64_t G = 2, H = 4, S = 2048, K = 32, N = 24, kSinks = 16, kRecent = 48;

/// Keys in runs of 8 about one topic, and queries about a topic each.
struct Document {
  Tensor k, v, q;

  explicit Document(double noise_size) {
    const std::int64_t topics = 96;
    const auto topic = values(random_tensor({topics, K}, 1)),
               noise = values(random_tensor({G, S, K}, 2)),
               asked = values(random_tensor({N, H, K}, 3));
    Rng rng(4);
    std::vector<double> keys, queries;
    for (std::int64_t g = 0; g < G; ++g) {
      std::int64_t at = 0;
      for (std::int64_t s = 0; s < S; ++s) {
        if (s % 8 == 0) at = static_cast<std::int64_t>(rng.below(96));
        for (std::int64_t i = 0; i < K; ++i)
          keys.push_back(0.5 + topic[static_cast<std::size_t>(at * K + i)] +
                         noise_size * noise[static_cast<std::size_t>((g * S + s) * K + i)]);
      }
    }
    for (std::int64_t row = 0; row < N * H; ++row) {
      const auto at = static_cast<std::int64_t>(rng.below(96));
      for (std::int64_t i = 0; i < K; ++i)
        queries.push_back(1.2 * topic[static_cast<std::size_t>(at * K + i)] +
                          0.5 * asked[static_cast<std::size_t>(row * K + i)]);
    }
    k = floats(keys, {G, S, K});
    v = random_tensor({G, S, K}, 5, DType::kF32);
    q = floats(queries, {N, H, K});
  }
};

AttentionResult attend(const Tensor& q_NHK, const Tensor& k_GSK, const Tensor& v_GSU,
                       const Tensor& bias_GS) {
  const SequenceView view(k_GSK, v_GSU);
  KvView kv = view.kv();
  const Tensor bias_SG = bias_GS.transpose(0, 1).contiguous_copy();
  kv.bias = bias_SG.data<float>();
  kv.bias_heads = kv.G;
  AttentionSpec spec;
  spec.window_right = kUnlimited;
  const std::int32_t start[] = {0, static_cast<std::int32_t>(q_NHK.size(0))};
  return attention(q_NHK, Tensor::of(std::span<const std::int32_t>(start), {2}), kv, spec);
}

Tensor filled(Shape shape, float x) {
  Tensor out = Tensor::empty(std::move(shape), DType::kF32);
  std::fill_n(out.mutable_data<float>(), out.elements(), x);
  return out;
}

bool hot(std::int64_t s) { return s < kSinks || s >= S - kRecent; }

/// The index over what is between sinks and recent keys, asked for one query at a time.
struct Index {
  const Document& doc;
  Clusters clusters;
  MergedKeys means;
  Tensor size;

  explicit Index(const Document& document) : doc(document) {
    const SequenceView view(doc.k, doc.v);
    clusters = cluster_keys(view.kv(), 0, kSinks, S - kRecent);
    means = group_mean(view.kv(), 0, clusters.group_GS, clusters.groups);
    size = Tensor::empty({G, clusters.groups}, DType::kI64);
    for (std::int64_t i = 0; i < size.elements(); ++i)
      size.mutable_data<std::int64_t>()[i] =
          static_cast<std::int64_t>(means.count_GM.data<float>()[i]);
  }

  Selection search(std::int64_t n, std::int64_t budget) const {
    const Tensor q = doc.q.slice(0, n, n + 1);
    Tensor only_hot = filled({G, S}, -kInfinity);
    for (std::int64_t i = 0; i < G * S; ++i)
      if (hot(i % S)) only_hot.mutable_data<float>()[i] = 0;
    const SequenceView centroids(means.k_GMK, means.v_GMU);
    KvView kv = centroids.kv();
    const Tensor bias_MG = means.bias_GM.transpose(0, 1).contiguous_copy();
    kv.bias = bias_MG.data<float>();
    kv.bias_heads = G;
    const Tensor mass = cluster_mass(q, kv, 0, 0);
    const Tensor rank = cluster_rank(mass, means.bias_GM, attend(q, doc.k, doc.v, only_hot).lse_NH);
    return select_clusters(rank.view({G, clusters.groups}), size, budget);
  }

  /// Bias 0 where a key is hot or selected, else −inf.
  Tensor exact_bias(const Selection& found) const {
    Tensor out = filled({G, S}, 0);
    for (std::int64_t i = 0; i < G * S; ++i) {
      if (hot(i % S)) continue;
      const std::int64_t m = clusters.group_GS.data<std::int64_t>()[i];
      if (found.taken_GM.data<std::uint8_t>()[i / S * clusters.groups + m] == 0)
        out.mutable_data<float>()[i] = -kInfinity;
    }
    return out;
  }
  /// log n of the clusters that were not selected.
  Tensor estimate_bias(const Selection& found) const {
    Tensor out = means.bias_GM.to(DType::kF32);
    for (std::int64_t i = 0; i < out.elements(); ++i)
      if (found.taken_GM.data<std::uint8_t>()[i] != 0) out.mutable_data<float>()[i] = -kInfinity;
    return out;
  }
};

double error(const Tensor& found, const Tensor& truth) {
  const auto a = values(found), b = values(truth);
  double off = 0, size = 0;
  for (std::size_t i = 0; i < a.size(); ++i) {
    off += (a[i] - b[i]) * (a[i] - b[i]);
    size += b[i] * b[i];
  }
  return std::sqrt(off / size);
}

TEST(Index, HET_07_TheEstimateOfTheRestLowersTheError) {
  for (const double noise : {0.3, 0.6}) {
    const Document doc(noise);
    const Index index(doc);
    double dropped = 0, estimated = 0, uncounted = 0;
    for (std::int64_t n = 0; n < N; ++n) {
      const Tensor q = doc.q.slice(0, n, n + 1);
      const Selection found = index.search(n, S / 50);
      const AttentionResult exact = attend(q, doc.k, doc.v, index.exact_bias(found)),
                            whole = attend(q, doc.k, doc.v, filled({G, S}, 0));
      const Tensor bias = index.estimate_bias(found);
      const AttentionResult rest = attend(q, index.means.k_GMK, index.means.v_GMU, bias);
      Tensor flat = bias.to(DType::kF32);
      for (std::int64_t i = 0; i < flat.elements(); ++i)
        if (flat.data<float>()[i] > 0) flat.mutable_data<float>()[i] = 0;
      dropped += error(exact.out_NHU, whole.out_NHU);
      estimated += error(merge_attention(exact, rest).out_NHU, whole.out_NHU);
      uncounted += error(
          merge_attention(exact, attend(q, index.means.k_GMK, index.means.v_GMU, flat)).out_NHU,
          whole.out_NHU);
    }
    // Far apart, not by a hair; and the count is what makes the difference.
    EXPECT_LT(estimated, 0.5 * dropped) << "noise " << noise;
    EXPECT_LT(estimated, 0.7 * uncounted) << "noise " << noise;
  }
}

TEST(Index, HET_03_RecallAtATenthOfTheContext) {
  const Document doc(0.5);
  const Index index(doc);
  std::int64_t wanted = 0, found = 0;
  for (std::int64_t n = 0; n < N; ++n) {
    const Selection selection = index.search(n, S / 10);
    for (std::int64_t g = 0; g < G; ++g) {
      EXPECT_LE(selection.tokens_G.data<std::int64_t>()[g], S / 10);
      // The 16 keys with the largest score for the heads of the group together.
      std::vector<std::pair<double, std::int64_t>> best;
      for (std::int64_t s = kSinks; s < S - kRecent; ++s) {
        double largest = -1e9;
        for (std::int64_t h = 2 * g; h < 2 * g + 2; ++h) {
          double score = 0;
          for (std::int64_t i = 0; i < K; ++i)
            score += double{doc.q.data<float>()[(n * H + h) * K + i]} *
                     double{doc.k.data<float>()[(g * S + s) * K + i]};
          largest = std::max(largest, score);
        }
        best.push_back({-largest, s});
      }
      std::partial_sort(best.begin(), best.begin() + 16, best.end());
      for (std::size_t i = 0; i < 16; ++i) {
        const std::int64_t m = index.clusters.group_GS.data<std::int64_t>()[g * S + best[i].second];
        found += selection.taken_GM.data<std::uint8_t>()[g * index.clusters.groups + m];
        ++wanted;
      }
    }
  }
  const double recall = static_cast<double>(found) / static_cast<double>(wanted);
  RecordProperty("recall_percent", static_cast<int>(100 * recall));
  EXPECT_GE(recall, 0.9);
}

TEST(Index, HET_02_TheWholeContextFoundIsFullAttention) {
  const Document doc(0.5);
  const Index index(doc);
  const Selection all = index.search(0, S);
  for (std::int64_t g = 0; g < G; ++g)
    EXPECT_EQ(all.tokens_G.data<std::int64_t>()[g], S - kSinks - kRecent);
  const Tensor q = doc.q.slice(0, 0, 1);
  const AttentionResult whole = attend(q, doc.k, doc.v, filled({G, S}, 0));
  const AttentionResult exact = attend(q, doc.k, doc.v, index.exact_bias(all)),
                        rest = attend(q, index.means.k_GMK, index.means.v_GMU,
                                      index.estimate_bias(all));
  // Nothing is left to estimate, and an empty part changes no bit.
  EXPECT_TRUE(same_bits(merge_attention(exact, rest), whole));
}

TEST(Index, HET_04_PartsMergeIntoOneSoftmax) {
  const Document doc(0.5);
  const Index index(doc);
  const Selection found = index.search(3, S / 10);
  const Tensor q = doc.q.slice(0, 3, 4), selected = index.exact_bias(found);
  // Sinks, what was selected, and recent keys, each alone.
  Tensor sink = filled({G, S}, -kInfinity), context = sink.to(DType::kF32),
         recent = sink.to(DType::kF32);
  for (std::int64_t i = 0; i < G * S; ++i) {
    Tensor& part = i % S < kSinks ? sink : i % S >= S - kRecent ? recent : context;
    part.mutable_data<float>()[i] = selected.data<float>()[i];
  }
  const AttentionResult parts = merge_attention(
      merge_attention(attend(q, doc.k, doc.v, sink), attend(q, doc.k, doc.v, context)),
      attend(q, doc.k, doc.v, recent));
  const AttentionResult whole = attend(q, doc.k, doc.v, selected);
  expect_close(values(parts.out_NHU), values(whole.out_NHU), "out", 2e-6);
  expect_close(values(parts.lse_NH), values(whole.lse_NH), "lse", 2e-6);
}

TEST(Index, ClustersOfOneKeyAreExact) {
  const Document doc(0.5);
  const SequenceView view(doc.k, doc.v);
  std::vector<std::int64_t> each(static_cast<std::size_t>(G * S));
  for (std::size_t i = 0; i < each.size(); ++i) each[i] = static_cast<std::int64_t>(i) % S;
  const MergedKeys alone = group_mean(view.kv(), 0, index_of(each, {G, S}), S);
  EXPECT_TRUE(same_bits(attend(doc.q, alone.k_GMK, alone.v_GMU, alone.bias_GM),
                        attend(doc.q, doc.k, doc.v, filled({G, S}, 0))));
}

}  // namespace
}  // namespace quire::test

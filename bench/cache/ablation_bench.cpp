// Which parts of an index over keys pay for the bytes they read: attention output error and covered
// mass of many settings at equal bytes, on keys and queries that `quire eval --dump-qkv` wrote.
//
//   ablation_bench QKV.safetensors [positions=8] [layers of the model=30]
//
// The document is what eval read; queries are taken evenly from the positions behind it. R is the
// part of the full cache's bytes (2 bytes for each number) that a step reads: exact keys and
// values, the index, and layers that are left whole. "16, opened 8": clusters of 16 tokens under
// super-clusters of 16 clusters; those of the best 8 are looked at, the others stand as they are.
#include <algorithm>
#include <array>
#include <chrono>
#include <cmath>
#include <cstdio>
#include <cstdlib>
#include <exception>
#include <functional>
#include <map>
#include <numeric>
#include <optional>
#include <string>
#include <vector>

#include "quire/base/error.h"
#include "quire/base/thread_pool.h"
#include "quire/io/safetensors.h"
#include "quire/ops/merge/group_mean.h"
#include "quire/ops/merge/sequence_view.h"
#include "quire/ops/search/cluster_keys.h"
#include "quire/ops/search/cluster_mass.h"

namespace {

using quire::Tensor;

enum class Kind { kClusters, kWindow, kQuest, kOracle };
enum class Vote { kSum, kMax, kEachHead };
enum class Estimate { kNone, kBest, kAll, kVariance };

struct Setting {
  std::string name;
  Kind kind = Kind::kClusters;
  std::int64_t segment = 8192, tokens_per_cluster = 16;
  std::int64_t opened = 0;  // super-clusters whose clusters are looked at; 0: one level
  Vote vote = Vote::kSum;
  Estimate estimate = Estimate::kAll;
  std::int64_t dense = 0, sinks = 16, recent = 64;
  std::int64_t index_bytes = 2;  // of a number in the index; 1: 8 bits with a scale for each row
};

constexpr std::array<double, 3> kShares{0.125, 0.17, 0.25};
constexpr std::int64_t kMembersOfSuper = 16;
constexpr double kBestPart = 0.23;

/// Mean keys, values and variances of groups; group sizes as logarithms. Head by head.
struct Means {
  std::int64_t M = 0;
  Tensor k_GMK, v_GMU, bias_GM, variance_GMK;
  std::vector<float> bias_MG;

  quire::KvView view(const quire::SequenceView& of, std::int64_t G) const {
    quire::KvView out = of.kv();
    out.bias = bias_MG.data();
    out.bias_heads = G;
    return out;
  }
};

Means means_of(const quire::MergedKeys& merged) {
  Means out;
  out.M = merged.k_GMK.size(1);
  out.k_GMK = merged.k_GMK;
  out.v_GMU = merged.v_GMU;
  out.bias_GM = merged.bias_GM;
  const std::int64_t G = merged.k_GMK.size(0);
  out.bias_MG.resize(static_cast<std::size_t>(out.M * G));
  for (std::int64_t g = 0; g < G; ++g)
    for (std::int64_t m = 0; m < out.M; ++m)
      out.bias_MG[static_cast<std::size_t>(m * G + g)] =
          merged.bias_GM.data<float>()[g * out.M + m];
  return out;
}

/// Rows as 8 bits with a scale for each would have them.
Tensor rounded(const Tensor& rows, float levels = 127) {
  Tensor out = rows.contiguous_copy();
  const std::int64_t K = out.size(2);
  float* to = out.mutable_data<float>();
  for (std::int64_t row = 0; row < out.elements(); row += K) {
    float most = 0;
    for (std::int64_t i = row; i < row + K; ++i) most = std::max(most, std::abs(to[i]));
    if (most == 0) continue;
    for (std::int64_t i = row; i < row + K; ++i)
      to[i] = std::round(to[i] / most * levels) / levels * most;
  }
  return out;
}

struct Index {
  quire::Clusters clusters;
  Means fine, coarse;
  Tensor super_GM;  // i64: the super-cluster of each cluster; −1: an empty one
};

/// One layer with its queries, and what full attention says of them.
struct Layer {
  std::int64_t number, S, D, G, H, K, U;
  Tensor k_SGK, v_SGU, q_SHK;
  std::vector<std::int64_t> positions;
  std::vector<std::vector<float>> score_NH;  // of keys [0, position]
  std::vector<std::vector<double>> out_NH;
  std::vector<double> lse_NH;
  std::map<std::array<std::int64_t, 5>, Index> indexes;

  const float* k(std::int64_t s, std::int64_t g) const {
    return k_SGK.data<float>() + (s * G + g) * K;
  }
  const float* v(std::int64_t s, std::int64_t g) const {
    return v_SGU.data<float>() + (s * G + g) * U;
  }
};

/// Sums of e^(score) times values, in f64.
struct Sum {
  double largest = -INFINITY, weight = 0;
  std::vector<double> value_U;
  explicit Sum(std::int64_t U) : value_U(static_cast<std::size_t>(U)) {}
  void add(double score, const float* v) {
    if (score > largest) {
      const double turn = std::exp(largest - score);
      weight *= turn;
      for (double& x : value_U) x *= turn;
      largest = score;
    }
    const double w = std::exp(score - largest);
    weight += w;
    for (std::size_t u = 0; u < value_U.size(); ++u) value_U[u] += w * double{v[u]};
  }
};

Layer load(const quire::io::SafetensorsFile& file, std::int64_t number, std::int64_t count) {
  const std::string end = quire::concat(".", number);
  Layer out{};
  out.number = number;
  out.k_SGK = file.read(quire::concat("k", end));
  out.v_SGU = file.read(quire::concat("v", end));
  out.q_SHK = file.read(quire::concat("q", end));
  out.S = out.k_SGK.size(0);
  out.G = out.k_SGK.size(1);
  out.K = out.k_SGK.size(2);
  out.U = out.v_SGU.size(2);
  out.H = out.q_SHK.size(1);
  out.D = std::stoll(file.metadata().at("document"));
  for (std::int64_t i = 0; i < count; ++i)
    out.positions.push_back(out.D + (out.S - out.D) * (2 * i + 1) / (2 * count));
  const std::int64_t rows = count * out.H;
  out.score_NH.resize(static_cast<std::size_t>(rows));
  out.out_NH.resize(static_cast<std::size_t>(rows));
  out.lse_NH.resize(static_cast<std::size_t>(rows));
  quire::thread_pool().run(rows, [&](std::int64_t row) {
    const auto at = static_cast<std::size_t>(row);
    const std::int64_t position = out.positions[at / static_cast<std::size_t>(out.H)];
    const std::int64_t h = row % out.H, g = h / (out.H / out.G);
    const float* q = out.q_SHK.data<float>() + (position * out.H + h) * out.K;
    Sum sum(out.U);
    for (std::int64_t s = 0; s <= position; ++s) {
      float dot = 0;
      for (std::int64_t i = 0; i < out.K; ++i) dot += q[i] * out.k(s, g)[i];
      out.score_NH[at].push_back(dot / std::sqrt(static_cast<float>(out.K)));
      sum.add(double{out.score_NH[at].back()}, out.v(s, g));
    }
    for (double& x : sum.value_U) x /= sum.weight;
    out.out_NH[at] = sum.value_U;
    out.lse_NH[at] = sum.largest + std::log(sum.weight);
  });
  return out;
}

Tensor variances(const Layer& layer, const quire::Clusters& clusters, const Means& means) {
  Tensor out = Tensor::zeros({layer.G, means.M, layer.K}, quire::DType::kF32);
  const auto* group = clusters.group_GS.data<std::int64_t>();
  quire::thread_pool().run(layer.G, [&](std::int64_t g) {
    float* to = out.mutable_data<float>() + g * means.M * layer.K;
    const std::int64_t S = clusters.group_GS.size(1);
    for (std::int64_t s = 0; s < S; ++s) {
      const std::int64_t m = group[g * S + s];
      if (m < 0) continue;
      const float* c = means.k_GMK.data<float>() + (g * means.M + m) * layer.K;
      const float share = std::exp(-means.bias_GM.data<float>()[g * means.M + m]);
      for (std::int64_t i = 0; i < layer.K; ++i)
        to[m * layer.K + i] += share * (layer.k(s, g)[i] - c[i]) * (layer.k(s, g)[i] - c[i]);
    }
  });
  return out;
}

const Index& index_of(Layer& layer, const Setting& setting) {
  const std::array key{setting.segment, setting.tokens_per_cluster, setting.sinks, setting.recent,
                       setting.index_bytes};
  if (const auto found = layer.indexes.find(key); found != layer.indexes.end())
    return found->second;
  Index& out = layer.indexes[key];
  const Tensor k_GSK = layer.k_SGK.slice(0, 0, layer.D).transpose(0, 1);
  const Tensor v_GSU = layer.v_SGU.slice(0, 0, layer.D).transpose(0, 1);
  const quire::SequenceView view(k_GSK, v_GSU);
  out.clusters = quire::cluster_keys(
      view.kv(), 0, setting.sinks, layer.D - setting.recent,
      {.segment = setting.segment, .tokens_per_cluster = setting.tokens_per_cluster});
  const auto merged = quire::group_mean(view.kv(), 0, out.clusters.group_GS, out.clusters.groups);
  out.fine = means_of(merged);
  out.fine.variance_GMK = rounded(variances(layer, out.clusters, out.fine), 255);
  // Super-clusters: the same over centroids. Empty clusters, which stand at the end, are in none.
  const std::int64_t M = out.fine.M;
  const quire::SequenceView centroids(out.fine.k_GMK, out.fine.v_GMU);
  const quire::Clusters supers = quire::cluster_keys(
      centroids.kv(), 0, 0, M, {.tokens_per_cluster = kMembersOfSuper, .largest = M});
  out.super_GM = supers.group_GS.contiguous_copy();
  for (std::int64_t i = 0; i < layer.G * M; ++i)
    if (std::isinf(out.fine.bias_GM.data<float>()[i]))
      out.super_GM.mutable_data<std::int64_t>()[i] = -1;
  out.coarse = means_of(quire::group_mean(centroids.kv(), 0, out.super_GM, supers.groups,
                                          {merged.count_GM, merged.count_GM, std::nullopt}));
  if (setting.index_bytes == 1) {
    for (Means* means : {&out.fine, &out.coarse}) {
      means->k_GMK = rounded(means->k_GMK);
      means->v_GMU = rounded(means->v_GMU);
    }
  }
  return out;
}

/// What one query head got: the error of its output, and the attention its exact keys had.
struct Result {
  double error = 0, mass = 1;
};

/// Bytes of one kv head.
struct Bytes {
  const Layer& layer;
  double token() const { return 2.0 * static_cast<double>(layer.K + layer.U); }
  double full(std::int64_t position) const { return token() * static_cast<double>(position + 1); }
  /// Of a group's centroid, its count, and what the estimate needs.
  double group(Estimate estimate, std::int64_t index_bytes) const {
    const auto K = static_cast<double>(layer.K), U = static_cast<double>(layer.U);
    const auto number = static_cast<double>(index_bytes);
    const double scale = index_bytes == 1 ? 2 : 0;
    const double values = estimate == Estimate::kNone   ? 0
                          : estimate == Estimate::kBest ? kBestPart
                                                        : 1;
    return number * K + scale + 2 + values * (number * U + scale) +
           (estimate == Estimate::kVariance ? K + 2 : 0);  // in 8 bits
  }
};

class Query {
 public:
  Query(const Layer& layer, const Setting& setting, const Index* index, std::size_t n, double bytes)
      : layer_(layer), setting_(setting), index_(index), n_(n), bytes_(bytes) {
    position_ = layer.positions[n];
    recent_from_ = layer.D - setting.recent;
  }

  /// By query head; nothing where the bytes do not even read the index and the hot keys.
  std::optional<std::vector<Result>> run() {
    const Bytes bytes{layer_};
    const auto hot = static_cast<double>(setting_.sinks + position_ + 1 - recent_from_);
    double left = bytes_ - hot * bytes.token();
    if (setting_.kind == Kind::kQuest)
      left -= static_cast<double>(layer_.D / 16) * 4 * static_cast<double>(layer_.K);
    std::vector<Result> out;
    if (setting_.kind != Kind::kClusters) {
      const auto tokens = static_cast<std::int64_t>(left / bytes.token());
      if (tokens < 0) return std::nullopt;
      for (std::int64_t g = 0; g < layer_.G; ++g) {
        const std::vector<std::int64_t> keys = setting_.kind == Kind::kWindow  ? window(tokens)
                                               : setting_.kind == Kind::kQuest ? quest(g, tokens)
                                                                               : oracle(g, tokens);
        for (std::int64_t r = 0; r < heads(); ++r) out.push_back(finish(g * heads() + r, keys, {}));
      }
      return out;
    }
    estimate();
    for (std::int64_t g = 0; g < layer_.G; ++g)
      if (!over_clusters(g, left, out)) return std::nullopt;
    return out;
  }

 private:
  struct Stand {  // a group that stands for its members
    double mass;
    const float* v;
  };

  std::int64_t heads() const { return layer_.H / layer_.G; }
  const std::vector<float>& scores(std::int64_t h) const {
    return layer_.score_NH[n_ * static_cast<std::size_t>(layer_.H) + static_cast<std::size_t>(h)];
  }

  std::vector<std::int64_t> best(std::vector<std::pair<double, std::int64_t>> ranked,
                                 std::int64_t count) const {
    count = std::min(count, static_cast<std::int64_t>(ranked.size()));
    std::partial_sort(ranked.begin(), ranked.begin() + count, ranked.end(),
                      [](const auto& a, const auto& b) {
                        return a.first != b.first ? a.first > b.first : a.second < b.second;
                      });
    std::vector<std::int64_t> out;
    for (std::int64_t i = 0; i < count; ++i)
      out.push_back(ranked[static_cast<std::size_t>(i)].second);
    return out;
  }

  std::vector<std::int64_t> window(std::int64_t tokens) const {
    std::vector<std::int64_t> out;
    for (std::int64_t s = std::max(setting_.sinks, recent_from_ - tokens); s < recent_from_; ++s)
      out.push_back(s);
    return out;
  }
  std::vector<std::int64_t> oracle(std::int64_t g, std::int64_t tokens) const {
    std::vector<std::pair<double, std::int64_t>> ranked;
    for (std::int64_t s = setting_.sinks; s < recent_from_; ++s) {
      double mass = 0;
      for (std::int64_t r = 0; r < heads(); ++r) {
        const auto h = static_cast<std::size_t>(g * heads() + r);
        mass += std::exp(double{scores(g * heads() + r)[static_cast<std::size_t>(s)]} -
                         layer_.lse_NH[n_ * static_cast<std::size_t>(layer_.H) + h]);
      }
      ranked.emplace_back(mass, s);
    }
    return best(std::move(ranked), tokens);
  }
  std::vector<std::int64_t> quest(std::int64_t g, std::int64_t tokens) const {
    std::vector<std::pair<double, std::int64_t>> ranked;
    for (std::int64_t page = setting_.sinks; page + 16 <= recent_from_; page += 16) {
      double bound = 0;
      for (std::int64_t i = 0; i < layer_.K; ++i) {
        float low = INFINITY, high = -INFINITY;
        for (std::int64_t s = page; s < page + 16; ++s) {
          low = std::min(low, layer_.k(s, g)[i]);
          high = std::max(high, layer_.k(s, g)[i]);
        }
        for (std::int64_t r = 0; r < heads(); ++r) {
          const float q = query(g * heads() + r)[i];
          bound += double{std::max(q * low, q * high)};
        }
      }
      ranked.emplace_back(bound, page);
    }
    std::vector<std::int64_t> out;
    for (const std::int64_t page : best(std::move(ranked), tokens / 16))
      for (std::int64_t s = page; s < page + 16; ++s) out.push_back(s);
    return out;
  }
  const float* query(std::int64_t h) const {
    return layer_.q_SHK.data<float>() + (position_ * layer_.H + h) * layer_.K;
  }

  double hot_lse(std::int64_t h) const {
    Sum sum(0);
    for (std::int64_t s = 0; s <= position_; ++s)
      if (s < setting_.sinks || s >= recent_from_)
        sum.add(double{scores(h)[static_cast<std::size_t>(s)]}, nullptr);
    return sum.largest + std::log(sum.weight);
  }

  /// Log-masses and ranks of clusters, and of super-clusters.
  void estimate() {
    const Tensor q_NHK = layer_.q_SHK.slice(0, position_, position_ + 1);
    Tensor hot_NH = Tensor::empty({1, layer_.H}, quire::DType::kF32);
    for (std::int64_t h = 0; h < layer_.H; ++h)
      hot_NH.mutable_data<float>()[h] = static_cast<float>(hot_lse(h));
    const auto vote = setting_.vote == Vote::kMax ? quire::GroupVote::kMax : quire::GroupVote::kSum;
    const auto ask = [&](const Means& means, bool varies, Tensor& mass, Tensor& rank) {
      const quire::SequenceView view(means.k_GMK, means.v_GMU);
      std::optional<quire::SequenceView> variance;
      if (varies) variance.emplace(means.variance_GMK);
      mass = quire::cluster_mass(
          q_NHK, means.view(view, layer_.G), 0, 0,
          variance ? std::optional<quire::KvView>(variance->kv()) : std::nullopt);
      rank = quire::cluster_rank(mass, means.bias_GM, hot_NH, vote);
    };
    ask(index_->fine, setting_.estimate == Estimate::kVariance, mass_, rank_);
    if (setting_.opened > 0) ask(index_->coarse, false, coarse_mass_, coarse_rank_);
  }

  std::int64_t size(std::int64_t g, std::int64_t m) const {
    const auto* start = index_->clusters.start_GJ.data<std::int64_t>() + g * (index_->fine.M + 1);
    return start[m + 1] - start[m];
  }

  /// Adds the results of the heads of g; false when the bytes do not reach.
  bool over_clusters(std::int64_t g, double left, std::vector<Result>& out) const {
    const Bytes bytes{layer_};
    const std::int64_t M = index_->fine.M, coarse = index_->coarse.M;
    std::vector<std::int64_t> looked;  // clusters
    std::vector<std::vector<Stand>> stands(static_cast<std::size_t>(heads()));
    if (setting_.opened == 0) {
      for (std::int64_t m = 0; m < M; ++m)
        if (size(g, m) > 0) looked.push_back(m);
    } else {
      std::vector<std::pair<double, std::int64_t>> ranked;
      for (std::int64_t m = 0; m < coarse; ++m)
        if (!std::isinf(index_->coarse.bias_GM.data<float>()[g * coarse + m]))
          ranked.emplace_back(coarse_rank_.data<float>()[g * coarse + m], m);
      left -=
          static_cast<double>(ranked.size()) * bytes.group(Estimate::kAll, setting_.index_bytes);
      std::vector<std::uint8_t> is_open(static_cast<std::size_t>(coarse));
      for (const std::int64_t m : best(ranked, setting_.opened))
        is_open[static_cast<std::size_t>(m)] = 1;
      for (const auto& [rank, m] : ranked) {
        if (is_open[static_cast<std::size_t>(m)] != 0) continue;
        for (std::int64_t r = 0; r < heads(); ++r)
          stands[static_cast<std::size_t>(r)].push_back(
              {double{coarse_mass_.data<float>()[(g * heads() + r) * coarse + m]},
               index_->coarse.v_GMU.data<float>() + (g * coarse + m) * layer_.U});
      }
      for (std::int64_t m = 0; m < M; ++m) {
        const std::int64_t super = index_->super_GM.data<std::int64_t>()[g * M + m];
        if (super >= 0 && size(g, m) > 0 && is_open[static_cast<std::size_t>(super)] != 0)
          looked.push_back(m);
      }
    }
    left -=
        static_cast<double>(looked.size()) * bytes.group(setting_.estimate, setting_.index_bytes);
    const auto tokens = static_cast<std::int64_t>(left / bytes.token());
    if (tokens < 0) return false;
    for (std::int64_t r = 0; r < heads(); ++r) {
      const std::int64_t h = g * heads() + r;
      const auto [keys, rest] = select(g, h, looked, tokens);
      std::vector<Stand>& all = stands[static_cast<std::size_t>(r)];
      for (const std::int64_t m : rest)
        all.push_back({double{mass_.data<float>()[h * M + m]},
                       index_->fine.v_GMU.data<float>() + (g * M + m) * layer_.U});
      out.push_back(finish(h, keys, all));
    }
    return true;
  }

  /// Keys that head h attends to, and the clusters that stand for theirs.
  std::pair<std::vector<std::int64_t>, std::vector<std::int64_t>> select(
      std::int64_t g, std::int64_t h, const std::vector<std::int64_t>& looked,
      std::int64_t tokens) const {
    const std::int64_t M = index_->fine.M;
    const bool alone = setting_.vote == Vote::kEachHead;
    if (alone) tokens /= heads();  // each head reads its own
    std::vector<std::pair<double, std::int64_t>> ranked;
    for (const std::int64_t m : looked) {
      const float own =
          mass_.data<float>()[h * M + m] - index_->fine.bias_GM.data<float>()[g * M + m];
      ranked.emplace_back(double{alone ? own : rank_.data<float>()[g * M + m]}, m);
    }
    const auto count = static_cast<std::int64_t>(ranked.size());
    std::vector<std::int64_t> keys, rest;
    const auto* start = index_->clusters.start_GJ.data<std::int64_t>() + g * (M + 1);
    const auto* member =
        index_->clusters.member_GN.data<std::int64_t>() + g * index_->clusters.member_GN.size(1);
    bool fits = true;
    for (const std::int64_t m : best(std::move(ranked), count)) {
      fits = fits && size(g, m) <= tokens;
      if (fits) {
        tokens -= size(g, m);
        keys.insert(keys.end(), member + start[m], member + start[m + 1]);
      } else {
        rest.push_back(m);
      }
    }
    if (setting_.estimate == Estimate::kNone) rest.clear();
    if (setting_.estimate == Estimate::kBest)
      rest.resize(
          std::min(rest.size(), static_cast<std::size_t>(kBestPart * static_cast<double>(count))));
    return {keys, rest};
  }

  Result finish(std::int64_t h, const std::vector<std::int64_t>& keys,
                const std::vector<Stand>& stands) const {
    const std::int64_t g = h / heads();
    const auto row = n_ * static_cast<std::size_t>(layer_.H) + static_cast<std::size_t>(h);
    Sum sum(layer_.U);
    const auto exact = [&](std::int64_t s) {
      sum.add(double{scores(h)[static_cast<std::size_t>(s)]}, layer_.v(s, g));
    };
    for (std::int64_t s = 0; s < setting_.sinks; ++s) exact(s);
    for (const std::int64_t s : keys) exact(s);
    for (std::int64_t s = recent_from_; s <= position_; ++s) exact(s);
    Result out;
    out.mass = sum.weight * std::exp(sum.largest - layer_.lse_NH[row]);
    for (const Stand& stand : stands) sum.add(stand.mass, stand.v);
    double distance = 0, norm = 0;
    for (std::size_t u = 0; u < sum.value_U.size(); ++u) {
      const double is = sum.value_U[u] / sum.weight, was = layer_.out_NH[row][u];
      distance += (is - was) * (is - was);
      norm += was * was;
    }
    out.error = norm == 0 ? 0 : std::sqrt(distance / norm);
    return out;
  }

  const Layer& layer_;
  const Setting& setting_;
  const Index* index_;
  std::size_t n_;
  double bytes_;
  std::int64_t position_, recent_from_;
  Tensor mass_, rank_, coarse_mass_, coarse_rank_;
};

/// One line: for each R the mean error, its 95th percentile, and the mean mass.
void line(std::vector<Layer>& layers, const Setting& setting, std::int64_t model_layers) {
  std::printf("%-40s", setting.name.c_str());
  for (const double share : kShares) {
    const auto L = static_cast<double>(model_layers), dense = static_cast<double>(setting.dense);
    const double rest = (share * L - dense) / (L - dense);
    double weight = 0, error = 0, mass = 0;
    std::vector<double> errors;
    bool reaches = rest > 0;
    for (Layer& layer : layers) {
      if (!reaches) break;
      const Index* index = setting.kind == Kind::kClusters ? &index_of(layer, setting) : nullptr;
      std::vector<std::optional<std::vector<Result>>> found(layer.positions.size());
      const bool whole = layer.number < setting.dense;
      const std::vector<Result> exact(static_cast<std::size_t>(layer.H));
      quire::thread_pool().run(static_cast<std::int64_t>(found.size()), [&](std::int64_t n) {
        const auto at = static_cast<std::size_t>(n);
        const double bytes = rest * Bytes{layer}.full(layer.positions[at]);
        found[at] = whole ? exact : Query(layer, setting, index, at, bytes).run();
      });
      // The first two layers stand for themselves, the others of the dump for all the rest.
      const double w = layer.number < 2 ? 1 : (L - 2) / static_cast<double>(layers.size() - 2);
      for (const auto& results : found) {
        reaches = reaches && results.has_value();
        for (const Result& result : results.value_or(std::vector<Result>())) {
          weight += w;
          error += w * result.error;
          mass += w * result.mass;
          errors.push_back(result.error);
        }
      }
    }
    if (!reaches) {
      std::printf(" |      -      -      -");
      continue;
    }
    const auto p95 = errors.begin() + static_cast<std::ptrdiff_t>(errors.size() * 95 / 100);
    std::nth_element(errors.begin(), p95, errors.end());
    std::printf(" | %.4f %.4f %5.2f%%", error / weight, *p95, 100 * mass / weight);
  }
  std::printf("\n");
  std::fflush(stdout);
}

std::vector<Setting> settings() {
  std::vector<Setting> out;
  const auto add = [&](const std::string& name, const auto& change) {
    Setting setting;
    setting.name = name;
    change(setting);
    out.push_back(setting);
  };
  add("window", [](Setting& s) { s.kind = Kind::kWindow; });
  add("quest, pages of 16", [](Setting& s) { s.kind = Kind::kQuest; });
  add("oracle", [](Setting& s) { s.kind = Kind::kOracle; });
  const auto vary = [&](const std::string& base, const auto& set, const auto& changes) {
    for (const auto& named : changes) {
      add(quire::concat(base, named.first), [&](Setting& s) {
        set(s);
        named.second(s);
      });
    }
  };
  using Change = std::pair<std::string, std::function<void(Setting&)>>;
  const std::vector<Change> common{
      {"", [](Setting&) {}},
      {", segments of 1024", [](Setting& s) { s.segment = 1024; }},
      {", segments of 2048", [](Setting& s) { s.segment = 2048; }},
      {", segments of 4096", [](Setting& s) { s.segment = 4096; }},
      {", largest vote of the group", [](Setting& s) { s.vote = Vote::kMax; }},
      {", each head its own keys", [](Setting& s) { s.vote = Vote::kEachHead; }},
      {", no estimate", [](Setting& s) { s.estimate = Estimate::kNone; }},
      {", estimate of the best 23 %", [](Setting& s) { s.estimate = Estimate::kBest; }},
      {", estimate with variance", [](Setting& s) { s.estimate = Estimate::kVariance; }},
      {", 1 dense layer", [](Setting& s) { s.dense = 1; }},
      {", 2 dense layers", [](Setting& s) { s.dense = 2; }},
      {", 0 sinks", [](Setting& s) { s.sinks = 0; }},
      {", 32 sinks", [](Setting& s) { s.sinks = 32; }},
      {", 64 sinks", [](Setting& s) { s.sinks = 64; }},
      {", 0 recent", [](Setting& s) { s.recent = 0; }},
      {", 32 recent", [](Setting& s) { s.recent = 32; }},
      {", 128 recent", [](Setting& s) { s.recent = 128; }},
      {", 256 recent", [](Setting& s) { s.recent = 256; }},
      {", index in 8 bits", [](Setting& s) { s.index_bytes = 1; }},
  };
  vary(
      "one level of 16", [](Setting&) {}, common);
  vary(
      "16, opened 16", [](Setting& s) { s.opened = 16; }, common);
  for (const std::int64_t tokens : {32, 16, 8, 4}) {
    for (const std::int64_t opened : {0, 4, 8, 12, 16, 24, 32}) {
      if (tokens == 16 && opened == 0) continue;
      if (tokens * opened < 64 && opened != 0) continue;
      if (tokens * opened > 384) continue;
      const auto set = [=](Setting& s) {
        s.tokens_per_cluster = tokens;
        s.opened = opened;
      };
      const std::string name = opened == 0 ? quire::concat("one level of ", tokens)
                                           : quire::concat(tokens, ", opened ", opened);
      std::vector<Change> changes{common.front(), common.back()};
      if (opened >= 16)
        changes.push_back({", 8 bits and variance", [](Setting& s) {
                             s.index_bytes = 1;
                             s.estimate = Estimate::kVariance;
                           }});
      vary(name, set, changes);
    }
  }
  return out;
}

int run(const std::string& path, std::int64_t positions, std::int64_t model_layers) {
  const quire::io::SafetensorsFile file(path);
  std::vector<Layer> layers;
  for (const auto& entry : file.entries())
    if (entry.name.starts_with("k."))
      layers.push_back(load(file, std::stoll(entry.name.substr(2)), positions));
  std::sort(layers.begin(), layers.end(),
            [](const Layer& a, const Layer& b) { return a.number < b.number; });
  if (layers.size() < 3) {
    std::fprintf(stderr, "%s holds fewer than three layers\n", path.c_str());
    return 2;
  }
  std::printf("%lld layers, %lld positions behind %lld tokens; error mean, 95 %%, mass\n%-40s",
              static_cast<long long>(layers.size()), static_cast<long long>(positions),
              static_cast<long long>(layers.front().D), "");
  for (const double share : kShares) std::printf(" |            R %4.1f %%", 100 * share);
  std::printf("\n");
  for (const Setting& setting : settings()) line(layers, setting, model_layers);
  return 0;
}

}  // namespace

int main(int argc, char** argv) {
  if (argc < 2) {
    std::fprintf(stderr, "usage: %s QKV.safetensors [positions] [layers of the model]\n", argv[0]);
    return 2;
  }
  try {
    return run(argv[1], argc > 2 ? std::atoll(argv[2]) : 8, argc > 3 ? std::atoll(argv[3]) : 30);
  } catch (const std::exception& error) {
    std::fprintf(stderr, "%s\n", error.what());
    return 1;
  }
}

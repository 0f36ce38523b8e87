#include "quire/cache/cluster_index.h"

#include <algorithm>
#include <cmath>
#include <limits>

#include "quire/base/error.h"
#include "quire/base/thread_pool.h"
#include "quire/cache/cluster_pages.h"
#include "quire/ops/attention/kv_format.h"
#include "quire/ops/attention/page_table.h"
#include "quire/ops/merge/group_mean.h"

namespace quire::cache {
namespace {

constexpr float kNone = -std::numeric_limits<float>::infinity();

/// Half the bytes of f16 buy more than the rounding costs, on keys of real text.
DType index_dtype(DType kv) { return kv == DType::kF32 ? kv : DType::kI8; }

/// Bytes of a row of n numbers, with its scale.
std::int64_t row_bytes(DType dtype, std::int64_t n) {
  return kv_row_bytes(dtype, n) + kv_scale_bytes(dtype);
}

/// Places for clusters, in whole pages, that stretches of at least `least` tokens can need at most.
/// (Untouched ones take no memory.)
std::int64_t slots_for(std::int64_t capacity, std::int64_t least, const ClusterSpec& spec) {
  const std::int64_t page = ClusterIndex::kPage;
  const std::int64_t most = least / spec.tokens_per_cluster + least / spec.largest + 2;
  return (capacity / least + 2) * ((most + page - 1) / page * page);
}

/// The clusters of each head in the order of their places, in whole pages of which each head has as
/// many; −1: nothing. Those of a page are alike.
std::vector<std::int64_t> places_of(const Clusters& clusters, const MergedKeys& means) {
  constexpr std::int64_t page = ClusterIndex::kPage;
  const std::int64_t G = means.k_GMK.size(0), K = means.k_GMK.size(2), M = clusters.groups;
  const std::int64_t places = (M + page - 1) / page * page;
  std::vector<std::int64_t> out(static_cast<std::size_t>(G * places), -1);
  thread_pool().run(G, [&](std::int64_t g) {
    const std::vector<std::int64_t> order = in_pages(
        means.k_GMK.data<float>() + g * M * K, clusters.groups_G.data<std::int64_t>()[g], K, page);
    std::copy(order.begin(), order.end(), out.begin() + g * places);
  });
  return out;
}

/// Of a head's keys: the squares of each number, summed, and |k|² of each cluster, summed.
struct Squares {
  std::vector<double> column_K, cluster_M;
};

/// Token i of a head, widened.
void read_key(const KvView& tokens, std::int64_t g, std::int64_t i, float* key_K) {
  const std::int64_t page = kernel::page_at(tokens, 0, g, i / tokens.Z), slot = i % tokens.Z;
  const std::int64_t at = kernel::slot_offset(tokens.k_strides, tokens.k_layout, page, slot, g);
  const float scale = kv_scale_bytes(tokens.dtype) == 0
                          ? 1.0f
                          : tokens.k_scale_PZG[(page * tokens.Z + slot) * tokens.G + g];
  kv_widen_row(tokens.dtype,
               static_cast<const std::byte*>(tokens.k_pages) +
                   at * static_cast<std::int64_t>(size_of(tokens.dtype)),
               tokens.K, scale, key_K);
}

Squares squares_of(const KvView& tokens, const Clusters& clusters, std::int64_t g) {
  const std::int64_t n = clusters.member_GN.size(1);
  const auto* group = clusters.group_GS.data<std::int64_t>() + g * clusters.group_GS.size(1);
  Squares out{std::vector<double>(static_cast<std::size_t>(tokens.K)),
              std::vector<double>(static_cast<std::size_t>(clusters.groups))};
  std::vector<float> key(static_cast<std::size_t>(tokens.K));
  for (std::int64_t i = 0; i < n; ++i) {
    read_key(tokens, g, i, key.data());
    double sum = 0;
    for (std::size_t k = 0; k < key.size(); ++k) {
      const double square = double{key[k]} * double{key[k]};
      out.column_K[k] += square;
      sum += square;
    }
    if (group[i] >= 0) out.cluster_M[static_cast<std::size_t>(group[i])] += sum;
  }
  return out;
}

}  // namespace

struct ClusterIndex::Found {
  Clusters clusters;
  MergedKeys means;
  std::vector<std::int64_t> place_GS;
  std::int64_t M = 0, pages = 0;

  /// Which cluster stands in a place; −1: none.
  std::int64_t at(std::int64_t g, std::int64_t place) const {
    return place_GS[static_cast<std::size_t>(g * pages * kPage + place)];
  }
  float count(std::int64_t g, std::int64_t m) const {
    return m < 0 ? 0 : means.count_GM.data<float>()[g * M + m];
  }
};

ClusterIndex::ClusterIndex(const LayerSpec& spec, std::int64_t capacity, std::int64_t least,
                           DType kv, const ClusterSpec& clusters)
    : G_(spec.G),
      K_(spec.K),
      U_(spec.U),
      spec_(clusters),
      dtype_(index_dtype(kv)),
      clusters_(spec, slots_for(capacity, least, clusters), dtype_, KLayout::kBlocks),
      supers_(spec, clusters_.slots() / kPage, dtype_, KLayout::kBlocks),
      member_(static_cast<std::size_t>(spec.G)),
      start_(static_cast<std::size_t>(spec.G), {0}),
      filled_(static_cast<std::size_t>(spec.G)),
      profile_(static_cast<std::size_t>(spec.G * spec.K)),
      sketches_(static_cast<std::size_t>(spec.G),
                KeySketches(std::vector<float>(static_cast<std::size_t>(spec.K), 1.0f))) {}

void ClusterIndex::add(const KvView& tokens, std::int64_t begin, std::int64_t n) {
  Found found;
  ClusterSpec spec = spec_;
  if (n >= kCoarseFrom) spec.tokens_per_cluster *= 2;
  found.clusters = cluster_keys(tokens, 0, 0, n, spec);
  found.M = found.clusters.groups;
  found.means = group_mean(tokens, 0, found.clusters.group_GS, found.M);
  found.place_GS = places_of(found.clusters, found.means);
  found.pages = static_cast<std::int64_t>(found.place_GS.size()) / G_ / kPage;
  const std::int64_t slots = found.pages * kPage;
  QUIRE_CHECK((pages_ + found.pages) * kPage <= clusters_.slots(), "an index of ",
              clusters_.slots(), " clusters is full");
  Tensor k_NGK = Tensor::zeros({slots, G_, K_}, DType::kF32);
  Tensor v_NGU = Tensor::zeros({slots, G_, U_}, DType::kF32);
  for (std::int64_t g = 0; g < G_; ++g) {
    for (std::int64_t m = 0; m < slots; ++m) {
      if (found.at(g, m) < 0) continue;
      const std::int64_t from = g * found.M + found.at(g, m), to = m * G_ + g;
      std::copy_n(found.means.k_GMK.data<float>() + from * K_, K_,
                  k_NGK.mutable_data<float>() + to * K_);
      std::copy_n(found.means.v_GMU.data<float>() + from * U_, U_,
                  v_NGU.mutable_data<float>() + to * U_);
    }
  }
  clusters_.write(k_NGK, v_NGU, pages_ * kPage);
  bias_.resize(static_cast<std::size_t>((pages_ * kPage + slots) * G_), kNone);
  spread_.resize(bias_.size());
  farthest_.resize(bias_.size());
  for (std::int64_t g = 0; g < G_; ++g) add_head(found, g, begin);
  thread_pool().run(G_, [&](std::int64_t g) {
    add_spread(tokens, found, g);
    add_sketches(tokens, found, g);
  });
  add_supers(found);
  stretches_.push_back({begin, begin + n, pages_});
  pages_ += found.pages;
}

void ClusterIndex::add_head(const Found& found, std::int64_t g, std::int64_t begin) {
  auto& member = member_[static_cast<std::size_t>(g)];
  auto& start = start_[static_cast<std::size_t>(g)];
  const std::int64_t n = found.clusters.member_GN.size(1);
  const auto* members = found.clusters.member_GN.data<std::int64_t>() + g * n;
  const auto* starts = found.clusters.start_GJ.data<std::int64_t>() + g * (found.M + 1);
  for (std::int64_t m = 0; m < found.pages * kPage; ++m) {
    const std::int64_t from = found.at(g, m);
    if (from >= 0) {
      for (std::int64_t i = starts[from]; i < starts[from + 1]; ++i)
        member.push_back(static_cast<std::int32_t>(begin + members[i]));
      const float count = found.count(g, from);
      bias_[static_cast<std::size_t>((pages_ * kPage + m) * G_ + g)] =
          count > 0 ? std::log(count) : kNone;
      if (count > 0) ++filled_[static_cast<std::size_t>(g)];
    }
    start.push_back(static_cast<std::uint32_t>(member.size()));
  }
}

/// How far apart the keys of each cluster are. Which of their numbers differ, and how much beside
/// the others, is nearly the same in all clusters of a head: the first stretch says it for all.
void ClusterIndex::add_spread(const KvView& tokens, const Found& found, std::int64_t g) {
  const Squares squares = squares_of(tokens, found.clusters, g);
  const auto K = static_cast<std::size_t>(K_);
  std::vector<double> within = squares.column_K;
  for (std::int64_t place = 0; place < found.pages * kPage; ++place) {
    const std::int64_t m = found.at(g, place);
    const double count = double{found.count(g, m)};
    if (count == 0) continue;
    const float* mean = found.means.k_GMK.data<float>() + (g * found.M + m) * K_;
    double norm = 0;
    for (std::size_t k = 0; k < K; ++k) {
      const double square = double{mean[k]} * double{mean[k]};
      within[k] -= count * square;
      norm += square;
    }
    const double variance = squares.cluster_M[static_cast<std::size_t>(m)] / count - norm;
    spread_[static_cast<std::size_t>((pages_ * kPage + place) * G_ + g)] =
        static_cast<float>(std::max(variance, 0.0) / static_cast<double>(K_));
  }
  if (!stretches_.empty()) return;
  double sum = 0;
  for (double& x : within) sum += x = std::max(x, 0.0);
  float* profile = profile_.data() + g * K_;
  for (std::size_t k = 0; k < K; ++k)
    profile[k] = sum > 0 ? static_cast<float>(within[k] / sum * static_cast<double>(K_)) : 1.0f;
}

/// The keys beside their centroids as those are stored.
void ClusterIndex::add_sketches(const KvView& tokens, const Found& found, std::int64_t g) {
  constexpr float kLeastWeight = 0.05f;  // of a number that hardly differs in the keys of a cluster
  KeySketches& sketches = sketches_[static_cast<std::size_t>(g)];
  const auto K = static_cast<std::size_t>(K_);
  if (stretches_.empty()) {
    std::vector<float> weight(K);
    for (std::size_t k = 0; k < K; ++k)
      weight[k] = std::max(kLeastWeight, std::sqrt(profile(g)[k]));
    sketches = KeySketches(weight);
  }
  const std::int64_t n = found.clusters.member_GN.size(1), slots = found.pages * kPage;
  const auto* members = found.clusters.member_GN.data<std::int64_t>() + g * n;
  const auto* starts = found.clusters.start_GJ.data<std::int64_t>() + g * (found.M + 1);
  std::vector<float> mean(K * static_cast<std::size_t>(slots)),
      value(static_cast<std::size_t>(U_ * slots));
  clusters_.widen(g, pages_ * kPage, slots, mean.data(), value.data());
  Tensor rest_NK = Tensor::empty({n, K_}, DType::kF32);
  float* rest = rest_NK.mutable_data<float>();
  for (std::int64_t place = 0; place < slots; ++place) {
    const std::int64_t m = found.at(g, place);
    if (m < 0) continue;
    const float* centroid = mean.data() + place * K_;
    float& farthest = farthest_[static_cast<std::size_t>((pages_ * kPage + place) * G_ + g)];
    farthest = 0;
    for (std::int64_t i = starts[m]; i < starts[m + 1]; ++i, rest += K_) {
      read_key(tokens, g, members[i], rest);
      float square = 0;
      for (std::size_t k = 0; k < K; ++k) {
        rest[k] -= centroid[k];
        square += rest[k] * rest[k];
      }
      farthest = std::max(farthest, square / static_cast<float>(K_));
    }
  }
  sketches.add(rest_NK);
}

/// The mean of the tokens of each page.
void ClusterIndex::add_supers(const Found& found) {
  Tensor k_NGK = Tensor::zeros({found.pages, G_, K_}, DType::kF32);
  Tensor v_NGU = Tensor::zeros({found.pages, G_, U_}, DType::kF32);
  super_bias_.resize(static_cast<std::size_t>((pages_ + found.pages) * G_), kNone);
  for (std::int64_t p = 0; p < found.pages; ++p) {
    for (std::int64_t g = 0; g < G_; ++g) {
      const std::int64_t end = (p + 1) * kPage;
      float total = 0;
      for (std::int64_t m = p * kPage; m < end; ++m) total += found.count(g, found.at(g, m));
      if (total == 0) continue;
      float* k = k_NGK.mutable_data<float>() + (p * G_ + g) * K_;
      float* v = v_NGU.mutable_data<float>() + (p * G_ + g) * U_;
      for (std::int64_t m = p * kPage; m < end; ++m) {
        const std::int64_t from = found.at(g, m);
        if (from < 0) continue;
        const float share = found.count(g, from) / total;
        const float* key = found.means.k_GMK.data<float>() + (g * found.M + from) * K_;
        const float* value = found.means.v_GMU.data<float>() + (g * found.M + from) * U_;
        for (std::int64_t i = 0; i < K_; ++i) k[i] += share * key[i];
        for (std::int64_t i = 0; i < U_; ++i) v[i] += share * value[i];
      }
      super_bias_[static_cast<std::size_t>((pages_ + p) * G_ + g)] = std::log(total);
    }
  }
  supers_.write(k_NGK, v_NGU, pages_);
}

std::int64_t ClusterIndex::first_behind(std::int64_t end) const {
  for (const Stretch& stretch : stretches_)
    if (stretch.end > end) return stretch.begin;
  return this->end();
}

std::int64_t ClusterIndex::drop_behind(std::int64_t end) {
  const std::int64_t from = first_behind(end);
  while (!stretches_.empty() && stretches_.back().end > end) {
    pages_ = stretches_.back().first_page;
    stretches_.pop_back();
  }
  const auto slots = static_cast<std::size_t>(pages_ * kPage), G = static_cast<std::size_t>(G_);
  bias_.resize(slots * G);
  spread_.resize(slots * G);
  farthest_.resize(slots * G);
  super_bias_.resize(static_cast<std::size_t>(pages_) * G);
  for (std::size_t g = 0; g < G; ++g) {
    start_[g].resize(slots + 1);
    member_[g].resize(start_[g].back());
    sketches_[g].truncate(start_[g].back());
    filled_[g] = 0;
    for (std::size_t m = 0; m < slots; ++m) filled_[g] += start_[g][m + 1] > start_[g][m] ? 1 : 0;
  }
  return from;
}

KvView ClusterIndex::clusters() const {
  KvView view = clusters_.paged_view(kPage);
  view.bias = bias_.data();
  view.bias_heads = G_;
  return view;
}

KvView ClusterIndex::all_clusters() const {
  KvView view = clusters_.view(pages_ * kPage);
  view.bias = bias_.data();
  view.bias_heads = G_;
  return view;
}

KvView ClusterIndex::supers() const {
  KvView view = supers_.view(pages_);
  view.bias = super_bias_.data();
  view.bias_heads = G_;
  return view;
}

std::int64_t ClusterIndex::key_bytes() const {
  return row_bytes(dtype_, K_) +
         static_cast<std::int64_t>(3 * sizeof(float) + sizeof(std::uint32_t));
}

std::int64_t ClusterIndex::value_bytes() const { return row_bytes(dtype_, U_); }

std::int64_t ClusterIndex::bytes() const {
  const std::int64_t places = pages_ * kPage + pages_;
  return G_ * (places * (key_bytes() + value_bytes()) +
               tokens() * (static_cast<std::int64_t>(sizeof(std::int32_t)) +
                           KeySketches::bytes_per_key(K_)));
}

}  // namespace quire::cache

#pragma once

#include <cstdint>
#include <span>
#include <vector>

#include "quire/cache/kv_store.h"
#include "quire/ops/search/cluster_keys.h"
#include "quire/ops/search/key_sketches.h"

namespace quire::cache {

/// The clusters of a layer's context, and above them one super-cluster for each 16: stretches of
/// tokens are added behind one another and dropped from the end. Clusters lie in pages of 16, and
/// those of a page are alike; page p is what super-cluster p stands for. Heads with fewer clusters
/// than others have places without members, whose bias is −inf.
class ClusterIndex {
 public:
  static constexpr std::int64_t kPage = 16;
  /// Stretches of so many tokens have clusters of twice as many tokens: beside so many clusters,
  /// what looking through them costs decides.
  static constexpr std::int64_t kCoarseFrom = 65536;

  /// For at most `capacity` tokens, each stretch but the last of at least `least` tokens. Centroids
  /// are i8, each with a scale; of a cache of f32 f32.
  ClusterIndex(const LayerSpec& spec, std::int64_t capacity, std::int64_t least, DType kv,
               const ClusterSpec& clusters);

  /// Clusters n tokens (all that the view holds), the first of which is token `begin`.
  void add(const KvView& tokens, std::int64_t begin, std::int64_t n);
  /// Drops the stretches that end behind `end`. Returns where the first of them began; end() if
  /// there is none.
  std::int64_t drop_behind(std::int64_t end);
  /// What that would return.
  std::int64_t first_behind(std::int64_t end) const;

  std::int64_t pages() const { return pages_; }
  /// Stretches of tokens: where the last one ends; −1: none.
  std::int64_t end() const { return stretches_.empty() ? -1 : stretches_.back().end; }
  /// Tokens in the clusters of each head.
  std::int64_t tokens() const { return static_cast<std::int64_t>(member_[0].size()); }

  /// All clusters in pages of 16, mean keys with mean values, and log n as bias. The caller adds
  /// a table or lengths.
  KvView clusters() const;
  /// The same as one page: cluster m in slot m.
  KvView all_clusters() const;
  KvView supers() const;
  /// The biases of those views, [clusters, G] and [pages, G].
  std::span<const float> bias() const { return bias_; }
  std::span<const float> super_bias() const { return super_bias_; }

  /// How far apart the keys of each cluster are, [clusters, G]: the variance of their numbers,
  /// which lies in the K numbers of a key as the head's profile says (its mean is 1).
  std::span<const float> spread() const { return spread_; }
  /// The same of the one key of each cluster that is farthest from its centroid.
  std::span<const float> farthest() const { return farthest_; }
  std::span<const float> profile(std::int64_t g) const {
    return std::span(profile_).subspan(static_cast<std::size_t>(g * K_),
                                       static_cast<std::size_t>(K_));
  }

  /// The tokens of a cluster, ascending.
  std::span<const std::int32_t> members(std::int64_t g, std::int64_t m) const {
    const auto& start = start_[static_cast<std::size_t>(g)];
    const auto at = static_cast<std::size_t>(m);
    return std::span(member_[static_cast<std::size_t>(g)])
        .subspan(start[at], start[at + 1] - start[at]);
  }
  /// Those of all clusters, one after another; stretch after stretch.
  std::span<const std::int32_t> all_members(std::int64_t g) const {
    return member_[static_cast<std::size_t>(g)];
  }
  /// Where the members of a cluster stand among those.
  std::int64_t first_member(std::int64_t g, std::int64_t m) const {
    return start_[static_cast<std::size_t>(g)][static_cast<std::size_t>(m)];
  }
  /// What the keys of all members are beside their centroid, in the same order.
  const KeySketches& sketches(std::int64_t g) const {
    return sketches_[static_cast<std::size_t>(g)];
  }
  /// Clusters of a head that have members.
  std::int64_t clusters_of(std::int64_t g) const { return filled_[static_cast<std::size_t>(g)]; }

  /// Of all heads: centroids, mean values, biases, supers, sketches, and which tokens are members.
  std::int64_t bytes() const;
  /// A centroid with its bias, its spreads and where its members stand, of one head; and a mean
  /// value.
  std::int64_t key_bytes() const;
  std::int64_t value_bytes() const;

 private:
  struct Stretch {
    std::int64_t begin, end, first_page;
  };
  struct Found;  // the clusters of a new stretch
  void add_head(const Found& found, std::int64_t g, std::int64_t begin);
  void add_spread(const KvView& tokens, const Found& found, std::int64_t g);
  void add_sketches(const KvView& tokens, const Found& found, std::int64_t g);
  void add_supers(const Found& found);

  std::int64_t G_, K_, U_, pages_ = 0;
  ClusterSpec spec_;
  DType dtype_;
  KvStore clusters_, supers_;
  std::vector<float> bias_, spread_, farthest_, super_bias_;  // [slots, G]
  std::vector<std::vector<std::int32_t>> member_;             // per head: cluster after cluster
  std::vector<std::vector<std::uint32_t>> start_;             // per head: [clusters + 1]
  std::vector<std::int64_t> filled_;                          // per head
  std::vector<float> profile_;                                // [G, K]
  std::vector<KeySketches> sketches_;                         // per head, as member_
  std::vector<Stretch> stretches_;
};

}  // namespace quire::cache

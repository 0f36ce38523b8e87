#pragma once

#include <cstdint>
#include <map>
#include <span>
#include <utility>
#include <vector>

#include "quire/base/half.h"
#include "quire/cache/policy.h"
#include "quire/ops/search/cluster_keys.h"

namespace quire::cache {

/// How a Clustered policy clusters, ranks and estimates.
struct ClusteredParameters {
  std::int64_t sinks = 4, recent = 64;  // in no cluster
  ClusterSpec clusters;
  double estimated = 1;  // of the clusters: the next best behind the selected ones stand as one key
  bool by_size = false;  // ranked by n · e^score instead of e^score
  std::int64_t dense_layers = 0;
};

/// Selects whole clusters of keys by their centroids; others stand as one key each, with the mean
/// value and the bias log n. The index is stored as f16, with 2 bytes for each cluster's size and 4
/// for each key's place; a step reads the centroids, the sizes and the mean values it estimates
/// with.
class Clustered : public Policy {
 public:
  /// Throws ArgumentError for negative numbers of tokens, and a part outside [0, 1].
  explicit Clustered(const ClusteredParameters& parameters);

  Decide decide() const override { return Decide::kEachStep; }
  std::int64_t sinks() const override { return p_.sinks; }
  std::int64_t recent() const override { return p_.recent; }
  bool is_dense(std::int64_t layer) const override { return layer < p_.dense_layers; }
  void build(const HeadContext& head) override;
  /// Of a key: its cluster's rank; 0 where it is in none.
  void score(const HeadContext& head, std::span<float> score_S) const override;
  /// Clusters in order of rank, up to the first that does not fit.
  std::vector<std::int32_t> select(const HeadContext& head,
                                   std::span<const float> score_S) const override;
  StandIns stand_ins(const HeadContext& head,
                     std::span<const std::int32_t> selected) const override;
  std::int64_t index_bytes(std::int64_t layer) const override;
  std::int64_t index_bytes_read(std::int64_t layer) const override;

 private:
  struct Index {
    std::int64_t K = 0, U = 0;
    std::vector<std::int32_t> member, start;  // of cluster m: [start[m], start[m + 1])
    std::vector<Half> k_MK, v_MU;
    std::int32_t first_member(std::int64_t m) const {
      return member[static_cast<std::size_t>(start[static_cast<std::size_t>(m)])];
    }
    std::int64_t M() const { return static_cast<std::int64_t>(start.size()) - 1; }
  };

  std::int64_t estimated(const Index& index) const {
    return static_cast<std::int64_t>(p_.estimated * static_cast<double>(index.M()));
  }
  /// The rank of each cluster, and clusters by falling rank.
  std::vector<float> ranks(const HeadContext& head, const Index& index) const;
  static std::vector<std::size_t> order(std::span<const float> rank_M);

  ClusteredParameters p_;
  std::map<std::pair<std::int64_t, std::int64_t>, Index> index_;  // by layer and head
};

}  // namespace quire::cache

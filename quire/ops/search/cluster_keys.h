#pragma once

#include <cstdint>

#include "quire/ops/attention/kv_view.h"
#include "quire/tensor/tensor.h"

namespace quire {

/// How fine clusters are, and what they may cost.
struct ClusterSpec {
  std::int64_t segment = 8192;  // keys that are clustered together
  std::int64_t tokens_per_cluster = 16;
  std::int64_t iterations = 5;  // assignments of each key
  std::int64_t largest = 64;    // a cluster with more members is split by position
};

/// Clusters of the keys of one sequence, numbered by segment. Members are slots, sorted by cluster,
/// then by slot, so that a cluster is fetched in one forward walk.
struct Clusters {
  Tensor group_GS;   // i64: the cluster of each key; −1 outside [begin, end)
  Tensor member_GN;  // i64: the slots of each head, cluster after cluster; N = end − begin
  Tensor start_GJ;   // i64: members of cluster m are [start[m], start[m + 1]); J = groups + 1
  Tensor groups_G;   // i64: clusters of each head
  std::int64_t groups = 0;  // the most of any head; start stays at N behind a head's last cluster
};

/// Clusters slots [begin, end) of sequence b by the direction of their keys, less the mean of their
/// segment: spherical k-means in segments, with ⌈n / tokens_per_cluster⌉ clusters each, started at
/// keys of uniform stride.
///
/// kv  the view, not f64; all kv heads of sequence b have as many keys; begin is a multiple of 16
///
/// A cluster that nobody chose is dropped. Centroids are not returned: group_mean() gives the mean
/// key and value of each cluster, its count, and the bias log n.
///
/// Throws  ArgumentError on the range, the spec, and what attention() refuses of a view.
/// Order   no random numbers; of equally near centroids the lowest wins: bits depend neither on
///         threads nor on where pages lie.
/// Memory  the result, and of one segment two bytes for each number in its keys.
/// Source  RetroInfer 2025 (segmented clustering); distances in 8 bits, sums in f32.
Clusters cluster_keys(const KvView& kv, std::int64_t b, std::int64_t begin, std::int64_t end,
                      const ClusterSpec& spec = {});

}  // namespace quire

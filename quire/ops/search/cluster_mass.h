#pragma once

#include <cstdint>
#include <optional>
#include <span>

#include "quire/ops/attention/kv_view.h"
#include "quire/tensor/tensor.h"

namespace quire {

/// How the heads of a group vote for a cluster.
enum class GroupVote : std::uint8_t { kSum, kMax };

/// What each query would give each cluster, estimated from its centroid:
///
///   mass[n, h, m] = log n_m + scale · q·c_m + min(3, ½ scale² Σ_k q_k² σ²_mk)
///
/// q_NHK      f32
/// centroids  M centroids as keys of sequence b, log n_m as bias (1 or G heads; −inf: no cluster).
///            Blocks are read as they lie, rows are turned on the way
/// scale      of the scores; 0: 1/√K
/// variance   the variances of the members as keys of the same shape, or nothing: no third term
///
/// Returns f32 [N, H, M], natural logarithms.
/// Throws  ArgumentError on shapes, dtypes, and what attention() refuses of a view.
/// Order   each product is one chain of FMAs: bits depend neither on threads nor on how many
///         queries come at once.
/// Memory  the result, and 64 centroids for each thread.
/// Source  Jensen's inequality says that the first two terms count too little; the third is the
///         second order of the missing part.
Tensor cluster_mass(const Tensor& q_NHK, const KvView& centroids, std::int64_t b, double scale,
                    const std::optional<KvView>& variance = std::nullopt);

/// What cluster_mass() returns of one query, without variances, for the heads of kv head g alone:
/// they are written to mass_1HM, the others stay as they are. In the calling thread: for callers
/// that hand each kv head to a thread. Throws ArgumentError on shapes, dtypes and g.
void cluster_mass_of_head(const Tensor& q_1HK, const KvView& centroids, std::int64_t b,
                          double scale, std::int64_t g, Tensor& mass_1HM);

/// log Σ e^x; −inf of nothing.
double log_sum_exp(std::span<const float> x);
/// log Σ e^(x + mask) of each 16 numbers, the last of which may be fewer; −inf of nothing.
/// mask: 0, or −inf for a number that does not count. Throws ArgumentError on sizes.
void log_sum_exp_of_16(std::span<const float> x, std::span<const float> mask, std::span<float> out);

/// The rank of each cluster for a kv head: what one of its tokens receives from the heads of the
/// group, each head's shares adding up to 1 over clusters and all other keys,
///
///   rank[n, g, m] = Σ_h exp(mass[n, h, m] − log n_m − LSE[n, h])      (or the largest of them)
///
/// mass_NHM  as cluster_mass() returned it
/// bias_GM   f32, log n_m
/// hot_NH    f32, the log-sum-exp over the keys that are read in any case; −inf: none
///
/// Returns f32 [N, G, M]; 0 where there is no cluster. Throws ArgumentError on shapes and dtypes.
/// Order  sums in f64, clusters in order, then heads in order.
Tensor cluster_rank(const Tensor& mass_NHM, const Tensor& bias_GM, const Tensor& hot_NH,
                    GroupVote vote = GroupVote::kSum);

}  // namespace quire

#pragma once

#include <cstdint>
#include <optional>

#include "quire/ops/attention/kv_view.h"
#include "quire/tensor/tensor.h"

namespace quire {

/// What a key counts in the mean of its group. kMass: weight_GS, or 1. kCosine: softmax(cosine / τ)
/// over the group, which is what the notebook's merge does (τ = 1).
enum class GroupWeights : std::uint8_t { kMass, kCosine };

/// The bias of a merged key: log of what it counts for, or nothing (as in the notebook).
enum class GroupBias : std::uint8_t { kLogCount, kNone };

/// How a group becomes one key.
struct GroupMeanSpec {
  GroupWeights weights = GroupWeights::kMass;
  double temperature = 1;  // τ > 0, of kCosine
  GroupBias bias = GroupBias::kLogCount;
};

/// What is known of each key. All in the dtype of the result; absent ones are 1.
struct KeyNumbers {
  std::optional<Tensor> weight_GS;  // >= 0: attention mass, or the weight_GM of an earlier merge
  std::optional<Tensor> count_GS;   // tokens that the key stands for: the count_GM of one
  std::optional<Tensor> cosine_GS;  // of kCosine, which needs it
};

/// M keys with their values, all f32 (f64 where the keys were).
struct MergedKeys {
  Tensor k_GMK, v_GMU;
  Tensor weight_GM;  // Σ a; of kCosine relative to e^peak
  Tensor peak_GM;    // of kCosine the largest cosine / τ; else 0
  Tensor count_GM;   // Σ p
  Tensor bias_GM;    // what attention adds to the score of the merged key
};

/// The mass-carrying mean of groups of keys and of their values:
///
///   w_s = a_s / Σ a     k*_m = Σ w_s k_s     v*_m = Σ w_s v_s     p*_m = Σ p_s     bias = log p*
///
/// kv        the view; all kv heads of sequence b have S keys. In f64 keys lie in rows
/// group_GS  i64 in [−1, M); a key in group −1 is in none
///
/// An empty group is 0 with the bias −inf; one whose weights are all 0 is the plain mean of its
/// members (its weight stays 0). Merges compose: weights and counts of one are arguments of the
/// next, and the result is that of a single merge up to rounding.
///
/// Throws  ArgumentError on shapes, dtypes, groups, negative or non-finite weights and counts, and
///         what attention() refuses of a view.
/// Order   members are added by position, in f32; Σ a and Σ p in f64: bits depend neither on
///         threads nor on where pages lie.
/// Memory  the result, one float for each key, and 64 keys for each thread.
/// Source  KeepKV 2025 and Bolya et al. 2023 (log of the count), the notebook (kCosine).
MergedKeys group_mean(const KvView& kv, std::int64_t b, const Tensor& group_GS, std::int64_t M,
                      const KeyNumbers& numbers = {}, const GroupMeanSpec& spec = {});

/// The groups of two disjoint sets of keys as one: group m of both together. Total: an empty group
/// changes nothing. `spec` is that of both.
MergedKeys combine_groups(const MergedKeys& a, const MergedKeys& b, const GroupMeanSpec& spec = {});

/// All in the dtype of the merged keys.
struct GroupMeanGradients {
  Tensor dk_GSK, dv_GSU;
  Tensor dweight_GS;  // of kCosine the gradient of cosine_GS
  Tensor dcount_GS;
};

/// Gradients of group_mean() with respect to keys, values, weights (or cosines) and counts:
///
///   dk_s = w_s dk*      dv_s = w_s dv*      da_s = (dk*·(k_s − k*) + dv*·(v_s − v*)) / Σ a
///   dcosine_s = a_s da_s / τ                dp_s = dbias / p*
///
/// dk_GMK, dv_GMU, dbias_GM  of the outputs; kv … spec as given to group_mean(); merged as returned
///
/// Groups are constants. A key in no group has zeros; the weights of a group that took the plain
/// mean, too. Throws as group_mean().
GroupMeanGradients group_mean_backward(const Tensor& dk_GMK, const Tensor& dv_GMU,
                                       const Tensor& dbias_GM, const KvView& kv, std::int64_t b,
                                       const Tensor& group_GS, const KeyNumbers& numbers,
                                       const MergedKeys& merged, const GroupMeanSpec& spec = {});

}  // namespace quire

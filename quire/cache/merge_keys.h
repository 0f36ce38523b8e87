#pragma once

#include <cstdint>
#include <span>
#include <vector>

#include "quire/cache/merged.h"
#include "quire/ops/attention/attention_spec.h"
#include "quire/ops/merge/group_mean.h"
#include "quire/tensor/tensor.h"

namespace quire::cache {

/// The keys of a layer before a merge, and what is known of them; f32, contiguous.
struct MergeSource {
  Tensor k_GSK, v_GSU;
  Tensor mass_GS;      // the attention that they received, smoothed where that is wanted
  Tensor count_GS;     // tokens that they stand for
  Tensor bias_SG;      // as in a bias plane; all 0 for tokens
  Tensor position_GS;  // i64, ascending
  std::vector<std::int64_t> size_G;  // entries that each head is to have
  std::int64_t even = 0;             // if all had equally many: what shares of them mean
  Tensor q_NHK;                      // probes, turned; without rows: no bias is fitted
  Tensor out_NHU = Tensor::zeros({0}, DType::kF32);  // what they got; empty: not known
};

/// And after it.
struct MergedEntries {
  Tensor k_GMK, v_GMU, mass_GM, count_GM, bias_GM;
  Tensor position_GM;        // i64: of the first member
  std::int64_t dropped = 0;  // tokens that are in no group, over all heads
  double dropped_mass = 0;   // and what they received
};

/// Entries of each head, ordered by the position of their first member; M is the most that a head
/// has, and the others' last are empty: count 0, bias −inf. Throws ArgumentError for a number that
/// is not in [floor, S].
MergedEntries merge_keys(const MergeSource& from, const AttentionSpec& spec,
                         const MergeOptions& options);

/// Moves the values of entries so that the probes' outputs come closer to what they were, by least
/// squares over entries and rows of probes: the change has the least squares beside `ridge` times
/// the mean square of a row's weights. A probe sees the entries whose first member it sees.
void fit_values(const MergeSource& from, const AttentionSpec& spec, const Tensor& group_GS,
                double ridge, MergedKeys& merged);

/// The last tokens that stay of a head, where heads have `even` entries on average.
std::int64_t recent_of(const MergeOptions& options, std::int64_t even);

/// One head of a source.
struct HeadKeys {
  Tensor k_1SK;
  std::span<const float> mass_S, count_S;
  std::span<const std::int64_t> position_S;
  std::int64_t size() const { return k_1SK.size(1); }
};

/// Groups of one head, numbered by their first member; −1: dropped. cosine_S where it counts.
struct HeadGroups {
  std::vector<std::int64_t> group_S;
  std::vector<float> cosine_S;
};
/// `even`: MergeSource::even.
HeadGroups group_head(const HeadKeys& keys, const MergeOptions& options, std::int64_t M,
                      std::int64_t even);

}  // namespace quire::cache

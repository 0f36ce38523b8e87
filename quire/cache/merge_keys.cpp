#include "quire/cache/merge_keys.h"

#include <algorithm>
#include <cmath>

#include "quire/base/error.h"
#include "quire/cache/query_observer.h"
#include "quire/ops/attention/attention.h"
#include "quire/ops/merge/fit_bias.h"
#include "quire/ops/merge/group_mean.h"
#include "quire/ops/merge/sequence_view.h"

namespace quire::cache {
namespace {

std::size_t at(std::int64_t i) { return static_cast<std::size_t>(i); }

/// The groups of all heads, and cosines where the grouping has them.
struct Groups {
  Tensor group_GS, cosine_GS;
};

Groups group_all(const MergeSource& from, const MergeOptions& options) {
  const std::int64_t G = from.k_GSK.size(0), S = from.k_GSK.size(1);
  Groups out{Tensor::empty({G, S}, DType::kI64), Tensor::zeros({G, S}, DType::kF32)};
  for (std::int64_t g = 0; g < G; ++g) {
    const auto row = [&](const auto* data) { return std::span(data + g * S, at(S)); };
    const HeadGroups head =
        group_head({from.k_GSK.slice(0, g, g + 1), row(from.mass_GS.data<float>()),
                    row(from.count_GS.data<float>()), row(from.position_GS.data<std::int64_t>())},
                   options, from.size_G[at(g)], from.even);
    std::copy(head.group_S.begin(), head.group_S.end(),
              out.group_GS.mutable_data<std::int64_t>() + g * S);
    std::copy(head.cosine_S.begin(), head.cosine_S.end(),
              out.cosine_GS.mutable_data<float>() + g * S);
  }
  return out;
}

/// A weight of 0 would leave its key out of a mean, whatever it is: every key counts a little.
Tensor weights_of(const Tensor& mass_GS, const Tensor& count_GS, bool squared) {
  const std::int64_t G = mass_GS.size(0), S = mass_GS.size(1);
  Tensor out = Tensor::empty({G, S}, DType::kF32);
  for (std::int64_t g = 0; g < G; ++g) {
    const float *mass = mass_GS.data<float>() + g * S, *count = count_GS.data<float>() + g * S;
    double sum = 0, tokens = 0;
    for (std::int64_t s = 0; s < S; ++s) {
      sum += double{mass[s]};
      tokens += double{count[s]};
    }
    const double least = sum > 0 ? 1e-3 * sum / tokens : 1;
    for (std::int64_t s = 0; s < S; ++s) {
      const double weight = double{mass[s]} + least * double{count[s]};
      out.mutable_data<float>()[g * S + s] = static_cast<float>(squared ? weight * weight : weight);
    }
  }
  return out;
}

/// The heaviest member of each group; −1 where a group is empty.
std::vector<std::int64_t> heaviest(const Tensor& mass_GS, const Tensor& group_GS, std::int64_t M) {
  const std::int64_t G = mass_GS.size(0), S = mass_GS.size(1);
  std::vector<std::int64_t> best(at(G * M), -1);
  for (std::int64_t i = 0; i < G * S; ++i) {
    const std::int64_t group = group_GS.data<std::int64_t>()[i];
    if (group < 0) continue;
    std::int64_t& of = best[at(i / S * M + group)];
    if (of < 0 || mass_GS.data<float>()[i] > mass_GS.data<float>()[of]) of = i;
  }
  return best;
}

void keep_keys(const MergeSource& from, const Tensor& group_GS, MergedKeys& merged) {
  const std::int64_t M = merged.k_GMK.size(1), K = merged.k_GMK.size(2);
  const std::vector<std::int64_t> best = heaviest(from.mass_GS, group_GS, M);
  for (std::size_t i = 0; i < best.size(); ++i)
    if (best[i] >= 0)
      std::copy_n(from.k_GSK.data<float>() + best[i] * K, K,
                  merged.k_GMK.mutable_data<float>() + static_cast<std::int64_t>(i) * K);
}

/// ln Σ w − Σ w ln(w / p) / Σ w: where a member's attention, w, is p times e to its score, the
/// weighted mean of scores and this bias together give the attention of all members.
void vote(const Tensor& weight_GS, const Tensor& count_GS, const Tensor& group_GS,
          MergedKeys& merged) {
  const std::int64_t S = weight_GS.size(1), M = merged.bias_GM.size(1);
  std::vector<double> sum(at(merged.bias_GM.elements())), logs(sum.size()), members(sum.size());
  for (std::int64_t i = 0; i < weight_GS.elements(); ++i) {
    const std::int64_t group = group_GS.data<std::int64_t>()[i];
    if (group < 0) continue;
    const double w = double{weight_GS.data<float>()[i]}, p = double{count_GS.data<float>()[i]};
    const std::size_t to = at(i / S * M + group);
    sum[to] += w;
    logs[to] += w * std::log(w / p);
    members[to] += 1;
  }
  for (std::size_t i = 0; i < sum.size(); ++i) {
    if (members[i] < 2) continue;
    merged.bias_GM.mutable_data<float>()[i] =
        static_cast<float>(std::log(sum[i]) - logs[i] / sum[i]);
  }
}

/// Counts up to a cap, and values that make up for it.
void cap_counts(double cap, MergedKeys& merged) {
  const std::int64_t U = merged.v_GMU.size(2);
  for (std::int64_t i = 0; i < merged.bias_GM.elements(); ++i) {
    const double count = double{merged.count_GM.data<float>()[i]};
    if (count <= cap) continue;
    merged.bias_GM.mutable_data<float>()[i] = static_cast<float>(std::log(cap));
    float* v = merged.v_GMU.mutable_data<float>() + i * U;
    for (std::int64_t u = 0; u < U; ++u) v[u] *= static_cast<float>(count / cap);
  }
}

Tensor fitted(const MergeSource& from, const AttentionSpec& spec, const Tensor& group_GS,
              const MergedKeys& merged) {
  // Only the sums of the probes' attention are asked for: one number of each value will do.
  const SequenceView view(from.k_GSK, from.v_GSU.slice(2, 0, 1));
  KvView kv = view.kv();
  kv.bias = from.bias_SG.data<float>();
  kv.bias_heads = from.k_GSK.size(0);
  AttentionSpec open = spec;  // every probe sees every key
  open.window_right = kUnlimited;
  open.alignment = Alignment::kBottomRight;
  const AttentionResult all = attention(from.q_NHK, one_sequence(from.q_NHK.size(0)), kv, open);
  return fit_bias(from.q_NHK, all.lse_NH, kv, 0, group_GS, merged, spec.scale);
}

/// What a merge of one member leaves is that member, whatever was computed.
void finish(const MergeSource& from, const Tensor& group_GS, const MergedKeys& merged,
            MergedEntries& out) {
  const std::int64_t G = from.k_GSK.size(0), S = from.k_GSK.size(1), M = merged.k_GMK.size(1);
  out.k_GMK = merged.k_GMK;
  out.v_GMU = merged.v_GMU;
  out.count_GM = merged.count_GM;
  out.bias_GM = merged.bias_GM;
  out.mass_GM = Tensor::zeros({G, M}, DType::kF32);
  out.position_GM = Tensor::empty({G, M}, DType::kI64);
  std::vector<std::int64_t> members(at(G * M)), last(at(G * M));
  for (std::int64_t i = G * S - 1; i >= 0; --i) {
    const std::int64_t group = group_GS.data<std::int64_t>()[i];
    const float mass = from.mass_GS.data<float>()[i];
    if (group < 0) {
      out.dropped += static_cast<std::int64_t>(from.count_GS.data<float>()[i]);
      out.dropped_mass += double{mass};
      continue;
    }
    const std::int64_t to = i / S * M + group;
    out.mass_GM.mutable_data<float>()[to] += mass;
    out.position_GM.mutable_data<std::int64_t>()[to] = from.position_GS.data<std::int64_t>()[i];
    ++members[at(to)];
    last[at(to)] = i;
  }
  for (std::int64_t m = 0; m < G * M; ++m) {
    if (members[at(m)] != 1) continue;
    const std::int64_t i = last[at(m)];
    out.bias_GM.mutable_data<float>()[m] = from.bias_SG.data<float>()[i % S * G + i / S];
  }
}

}  // namespace

MergedEntries merge_keys(const MergeSource& from, const AttentionSpec& spec,
                         const MergeOptions& options) {
  for (const std::int64_t size : from.size_G)
    QUIRE_CHECK(size >= MergedCache::floor_tokens(options) && size <= from.k_GSK.size(1),
                "a merge of ", from.k_GSK.size(1), " keys into ", size);
  const std::int64_t M = *std::max_element(from.size_G.begin(), from.size_G.end());
  const Groups groups = group_all(from, options);
  const SequenceView view(from.k_GSK, from.v_GSU);
  const bool asymmetric = options.weights == MergeWeights::kSquaredMass;
  const Tensor weight_GS = weights_of(from.mass_GS, from.count_GS, asymmetric);
  KeyNumbers numbers{weight_GS, from.count_GS, groups.cosine_GS};
  GroupMeanSpec mean;
  if (options.weights == MergeWeights::kCosine) mean.weights = GroupWeights::kCosine;
  if (options.bias == MergeBias::kNone) mean.bias = GroupBias::kNone;
  MergedKeys merged = group_mean(view.kv(), 0, groups.group_GS, M, numbers, mean);
  if (asymmetric) {
    numbers.weight_GS = from.count_GS;
    merged.v_GMU = group_mean(view.kv(), 0, groups.group_GS, M, numbers, mean).v_GMU;
  }
  if (options.mode == MergeMode::kValuesOnly) keep_keys(from, groups.group_GS, merged);
  if (options.bias == MergeBias::kVotes) vote(weight_GS, from.count_GS, groups.group_GS, merged);
  const bool fits = from.q_NHK.size(0) > 0 && spec.softcap == 0;
  if (options.bias == MergeBias::kFitted && options.mode != MergeMode::kEvict && fits)
    merged.bias_GM = fitted(from, spec, groups.group_GS, merged);
  if (options.count_cap > 0) cap_counts(options.count_cap, merged);
  if (options.ridge > 0 && fits && spec.sink_H == nullptr)
    fit_values(from, spec, groups.group_GS, options.ridge, merged);
  MergedEntries out;
  finish(from, groups.group_GS, merged, out);
  return out;
}

}  // namespace quire::cache

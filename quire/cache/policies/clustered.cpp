#include "quire/cache/policies/clustered.h"

#include <algorithm>
#include <cmath>
#include <numeric>

#include "quire/base/error.h"
#include "quire/ops/merge/group_mean.h"
#include "quire/ops/merge/sequence_view.h"

namespace quire::cache {

Clustered::Clustered(const ClusteredParameters& parameters) : p_(parameters) {
  QUIRE_CHECK(p_.sinks >= 0 && p_.recent >= 0 && p_.estimated >= 0 && p_.estimated <= 1,
              "clusters: ", p_.sinks, " sinks, ", p_.recent, " recent tokens, ", p_.estimated,
              " of the clusters estimated");
}

void Clustered::build(const HeadContext& head) {
  Index& out = index_[{head.layer, head.g}];
  out = {head.spec->K, head.spec->U, {}, {0}, {}, {}};
  const std::int64_t n = head.tokens - p_.sinks - p_.recent;
  if (n <= 0) return;
  const auto rows = [&](std::span<const float> of, std::int64_t width) {
    return Tensor::of<float>(
        of.subspan(static_cast<std::size_t>(p_.sinks * width), static_cast<std::size_t>(n * width)),
        {1, n, width});
  };
  const SequenceView view(rows(head.k_SK, out.K), rows(head.v_SU, out.U));
  const Clusters clusters = cluster_keys(view.kv(), 0, 0, n, p_.clusters);
  const MergedKeys means = group_mean(view.kv(), 0, clusters.group_GS, clusters.groups);
  for (std::int64_t i = 0; i < n; ++i)
    out.member.push_back(
        static_cast<std::int32_t>(clusters.member_GN.data<std::int64_t>()[i] + p_.sinks));
  for (std::int64_t m = 1; m <= clusters.groups; ++m)
    out.start.push_back(static_cast<std::int32_t>(clusters.start_GJ.data<std::int64_t>()[m]));
  for (std::int64_t i = 0; i < clusters.groups * out.K; ++i)
    out.k_MK.push_back(to_half(means.k_GMK.data<float>()[i]));
  for (std::int64_t i = 0; i < clusters.groups * out.U; ++i)
    out.v_MU.push_back(to_half(means.v_GMU.data<float>()[i]));
}

std::vector<std::size_t> Clustered::order(std::span<const float> rank_M) {
  std::vector<std::size_t> out(rank_M.size());
  std::iota(out.begin(), out.end(), std::size_t{0});
  std::stable_sort(out.begin(), out.end(),
                   [&](std::size_t a, std::size_t b) { return rank_M[a] > rank_M[b]; });
  return out;
}

std::int64_t Clustered::index_bytes(std::int64_t layer) const {
  std::int64_t sum = 0;
  for (const auto& [at, of] : index_)
    if (at.first == layer)
      sum += of.M() * 2 * (of.K + of.U + 1) + 4 * static_cast<std::int64_t>(of.member.size());
  return sum;
}

std::int64_t Clustered::index_bytes_read(std::int64_t layer) const {
  std::int64_t sum = 0;
  for (const auto& [at, of] : index_)
    if (at.first == layer) sum += of.M() * 2 * (of.K + 1) + estimated(of) * 2 * of.U;
  return sum;
}

}  // namespace quire::cache

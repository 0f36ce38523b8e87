#include "quire/ops/search/cluster_keys.h"

#include <algorithm>
#include <vector>

#include "quire/base/error.h"
#include "quire/ops/attention/attention_check.h"
#include "quire/ops/search/cluster_keys_kernel.h"

namespace quire {
namespace {

constexpr std::int64_t kSpan = 64;

void check_spec(const ClusterSpec& spec) {
  QUIRE_CHECK(
      spec.segment >= kSpan && spec.segment <= (std::int64_t{1} << 20) && spec.segment % kSpan == 0,
      "spec.segment is ", spec.segment, "; it may be 64 to 2^20 in steps of 64");
  QUIRE_CHECK(spec.tokens_per_cluster >= 1, "spec.tokens_per_cluster is ", spec.tokens_per_cluster);
  QUIRE_CHECK(spec.iterations >= 1 && spec.iterations <= 1000, "spec.iterations is ",
              spec.iterations, "; it may be 1 to 1000");
  QUIRE_CHECK(spec.largest >= 1, "spec.largest is ", spec.largest);
}

/// Keys of each segment: all about as long, none longer than asked.
std::int64_t segment_length(std::int64_t n, std::int64_t longest) {
  const std::int64_t segments = std::max<std::int64_t>(1, (n + longest - 1) / longest);
  return ((n + segments - 1) / segments + kSpan - 1) / kSpan * kSpan;
}

}  // namespace

Clusters cluster_keys(const KvView& kv, std::int64_t b, std::int64_t begin, std::int64_t end,
                      const ClusterSpec& spec) {
  const std::int64_t S = checked_keys(kv, b), n = end - begin;
  QUIRE_CHECK(kv.dtype != DType::kF64, "kv.dtype is f64; keys are clustered in 8 bits");
  QUIRE_CHECK(begin >= 0 && begin % 16 == 0 && begin <= end && end <= S, "slots [", begin, ", ",
              end, ") of ", S, "; the first is a multiple of 16");
  check_spec(spec);
  Clusters out{Tensor::empty({kv.G, S}, DType::kI64), Tensor::empty({kv.G, n}, DType::kI64),
               Tensor(), Tensor::empty({kv.G}, DType::kI64)};
  auto* group = out.group_GS.mutable_data<std::int64_t>();
  std::fill(group, group + out.group_GS.elements(), -1);
  const std::int64_t segment = segment_length(n, spec.segment);
  std::vector<std::int64_t> clusters;
  for (std::int64_t at = begin; at < end; at += segment) {
    const std::int64_t count = std::min(segment, end - at);
    clusters.push_back((count + spec.tokens_per_cluster - 1) / spec.tokens_per_cluster);
    kernel::cluster_segment_cpu(
        {kv, b, at, count, clusters.back(), spec.iterations, group + at, S});
  }
  auto* groups = out.groups_G.mutable_data<std::int64_t>();
  const kernel::NumberClusters numbers{kv.G,
                                       S,
                                       begin,
                                       n,
                                       segment,
                                       spec.largest,
                                       clusters.data(),
                                       group,
                                       out.member_GN.mutable_data<std::int64_t>(),
                                       groups};
  kernel::number_clusters_cpu(numbers);
  out.groups = *std::max_element(groups, groups + kv.G);
  out.start_GJ = Tensor::empty({kv.G, out.groups + 1}, DType::kI64);
  kernel::cluster_starts_cpu(numbers, out.groups + 1, out.start_GJ.mutable_data<std::int64_t>());
  return out;
}

}  // namespace quire

#include <algorithm>
#include <cmath>

#include "quire/cache/policies/clustered.h"

namespace quire::cache {

std::vector<float> Clustered::ranks(const HeadContext& head, const Index& index) const {
  const auto K = static_cast<std::size_t>(index.K), M = static_cast<std::size_t>(index.M());
  const double scale =
      head.spec->attention.scale != 0 ? head.spec->attention.scale : 1 / std::sqrt(double(K));
  std::vector<float> out(M);
  std::vector<double> share(M);
  for (std::size_t q = 0; q < head.q_RK.size(); q += K) {
    double largest = -INFINITY, sum = 0;
    for (std::size_t m = 0; m < M; ++m) {
      float dot = 0;
      for (std::size_t i = 0; i < K; ++i) dot += head.q_RK[q + i] * to_float(index.k_MK[m * K + i]);
      const double size = double(index.start[m + 1] - index.start[m]);
      share[m] = scale * double{dot} + (p_.by_size ? std::log(size) : 0);
      largest = std::max(largest, share[m]);
    }
    for (double& x : share) sum += x = std::exp(x - largest);
    for (std::size_t m = 0; m < M; ++m) out[m] += static_cast<float>(share[m] / sum);
  }
  return out;
}

void Clustered::score(const HeadContext& head, std::span<float> score_S) const {
  const Index& index = index_.at({head.layer, head.g});
  std::fill(score_S.begin(), score_S.end(), 0.0f);
  const std::vector<float> rank_M = ranks(head, index);
  for (std::size_t m = 0; m < rank_M.size(); ++m)
    for (std::int32_t i = index.start[m]; i < index.start[m + 1]; ++i)
      score_S[static_cast<std::size_t>(index.member[static_cast<std::size_t>(i)])] = rank_M[m];
}

std::vector<std::int32_t> Clustered::select(const HeadContext& head,
                                            std::span<const float> score_S) const {
  const Index& index = index_.at({head.layer, head.g});
  std::vector<float> rank_M;
  for (std::int64_t m = 0; m < index.M(); ++m)
    rank_M.push_back(score_S[static_cast<std::size_t>(index.first_member(m))]);
  std::vector<std::int32_t> out =
      best_positions(score_S, p_.sinks + p_.recent, p_.sinks, p_.recent);
  std::int64_t left = head.budget - static_cast<std::int64_t>(out.size());
  for (const std::size_t m : order(rank_M)) {
    left -= index.start[m + 1] - index.start[m];
    if (left < 0) break;
    out.insert(out.end(), index.member.begin() + index.start[m],
               index.member.begin() + index.start[m + 1]);
  }
  std::sort(out.begin(), out.end());
  return out;
}

StandIns Clustered::stand_ins(const HeadContext& head,
                              std::span<const std::int32_t> selected) const {
  const Index& index = index_.at({head.layer, head.g});
  StandIns out;
  std::int64_t left = estimated(index);
  for (const std::size_t m : order(ranks(head, index))) {
    if (left == 0) break;
    const auto at = static_cast<std::int64_t>(m);
    if (std::binary_search(selected.begin(), selected.end(), index.first_member(at))) continue;
    for (std::int64_t i = at * index.K; i < (at + 1) * index.K; ++i)
      out.k_EK.push_back(to_float(index.k_MK[static_cast<std::size_t>(i)]));
    for (std::int64_t i = at * index.U; i < (at + 1) * index.U; ++i)
      out.v_EU.push_back(to_float(index.v_MU[static_cast<std::size_t>(i)]));
    out.bias_E.push_back(std::log(static_cast<float>(index.start[m + 1] - index.start[m])));
    --left;
  }
  return out;
}

}  // namespace quire::cache

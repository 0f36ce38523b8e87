#pragma once

#include <cstdint>

#include "quire/base/isa.h"
#include "quire/ops/attention/kv_view.h"

namespace quire::kernel {

/// cluster_mass() with everything checked and made plain.
struct ClusterMass {
  const float* q_NHK;         // contiguous
  const float* q_square_NHK;  // null: no variances
  KvView centroids, variance;
  std::int64_t b, N, H, M;
  float scale;
  float* mass_NHM;
};
void cluster_mass_cpu(const ClusterMass& args);
/// Of kv head g alone, in the calling thread.
void cluster_mass_head_cpu(const ClusterMass& args, std::int64_t g);

/// Clusters [tile · 64, tile · 64 + 64) of kv head g, for all queries. `scratch`: 128 · K floats.
QUIRE_DECLARE_KERNEL(void, cluster_mass_tile, const ClusterMass& args, std::int64_t g,
                     std::int64_t tile, float* scratch)

struct ClusterRank {
  const float *mass_NHM, *bias_GM, *hot_NH;
  float* rank_NGM;
  double* lse_NH;  // scratch
  std::int64_t N, H, G, M;
  bool largest;  // of the heads, instead of their sum
};
void cluster_rank_cpu(const ClusterRank& args);
/// The log-sum-exp of one row and of `hot`.
QUIRE_DECLARE_KERNEL(double, row_lse, const float* row, std::int64_t n, float hot)
/// The same of each 16 numbers, to which the mask is added.
QUIRE_DECLARE_KERNEL(void, lse_of_16, const float* x, const float* mask, std::int64_t n, float* out)
double log_sum_exp_cpu(const float* x, std::int64_t n);
void log_sum_exp_of_16_cpu(const float* x, const float* mask, std::int64_t n, float* out);
/// rank[m] = e^(mass[m] − bias[m] − lse), added to or compared with what stands there.
QUIRE_DECLARE_KERNEL(void, rank_row, const float* mass_M, const float* bias_M, float lse,
                     std::int64_t M, bool largest, float* rank_M)

}  // namespace quire::kernel

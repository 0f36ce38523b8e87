#pragma once

#include <cstdint>

#include "quire/base/isa.h"
#include "quire/ops/attention/kv_view.h"

namespace quire::kernel {

/// The keys of one sequence in groups, with everything checked. T is float or double.
template <class T>
struct KeyGroups {
  KvView kv;
  std::int64_t b, S, M;
  const std::int64_t* group_GS;
  const T* weight_GS;  // null: 1
  const T* count_GS;   // null: 1
  const T* cosine_GS;  // null: weights are those above
  double temperature;
  bool log_count;
};

template <class T>
struct GroupMeans {
  T *k_GMK, *v_GMU, *weight_GM, *peak_GM, *count_GM, *bias_GM;  // k and v zeroed
  T* share_GS;  // scratch: what each key counts in the sums
};
void group_mean_cpu(const KeyGroups<float>& keys, const GroupMeans<float>& out);
void group_mean_cpu(const KeyGroups<double>& keys, const GroupMeans<double>& out);

/// Adds share · key (or value) of the members of groups [first, last) to row m of `to`, [M, K] or
/// [M, U] of head g. `scratch` is 64 · K (or U) floats.
struct GroupSum {
  const float* share_GS;
  float* to;
  std::int64_t g, first, last;
  bool values;
};
QUIRE_DECLARE_KERNEL(void, add_group_rows, const KeyGroups<float>& keys, const GroupSum& sum,
                     float* scratch)

template <class T>
struct GroupMeanBackward {
  const T *dk_GMK, *dv_GMU, *dbias_GM;
  const T *k_GMK, *v_GMU, *weight_GM, *peak_GM, *count_GM;
  T *dk_GSK, *dv_GSU, *dweight_GS, *dcount_GS;
};
void group_mean_backward_cpu(const KeyGroups<float>& keys, const GroupMeanBackward<float>& args);
void group_mean_backward_cpu(const KeyGroups<double>& keys, const GroupMeanBackward<double>& args);

/// Keys [slot, slot + count) of head g as rows of floats; slot a multiple of 64, count at most 64.
QUIRE_DECLARE_KERNEL(void, read_key_rows, const KvView& kv, std::int64_t b, std::int64_t g,
                     std::int64_t slot, int count, float* k, float* v)

}  // namespace quire::kernel

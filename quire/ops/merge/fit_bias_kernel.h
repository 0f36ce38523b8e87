#pragma once

#include <cstdint>

#include "quire/base/isa.h"
#include "quire/ops/attention/kv_view.h"

namespace quire::kernel {

/// fit_bias() with everything checked and made plain. Row r of head g is probe r / (H/G), head
/// g · H/G + r % (H/G); there are `rows` of them.
struct FitBias {
  const float *q_NHK, *lse_NH;
  KvView kv, merged;  // merged: sequence 0
  std::int64_t b, S, M, H, rows;
  const std::int64_t* group_GS;
  const float* count_GM;
  float scale;
  float* reach_GRM;  // scratch: scale · q·k* − lse
  float* most_GM;    // scratch: the largest of them over rows
  float* square_GM;  // scratch: sum over rows of e^(2 · (reach − most))
  float* mass_GS;    // scratch: the numerator's share of each key
  float* bias_GM;
};
void fit_bias_cpu(const FitBias& args);

/// reach_GRM of merged keys [slot, slot + count) of head g. `scratch` is 64 · K floats.
QUIRE_DECLARE_KERNEL(void, probe_merged, const FitBias& args, std::int64_t g, std::int64_t slot,
                     int count, float* scratch)
/// most_GM and square_GM of merged keys [slot, slot + count).
QUIRE_DECLARE_KERNEL(void, probe_squares, const FitBias& args, std::int64_t g, std::int64_t slot,
                     int count)
/// mass_GS of keys [slot, slot + count). `scratch` is 64 · (K + rows) floats.
QUIRE_DECLARE_KERNEL(void, probe_keys, const FitBias& args, std::int64_t g, std::int64_t slot,
                     int count, float* scratch)

}  // namespace quire::kernel

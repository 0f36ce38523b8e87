#pragma once

#include <cstdint>

#include "quire/base/isa.h"
#include "quire/ops/attention/kv_view.h"

namespace quire::kernel {

/// nearest_anchor() with everything checked and made plain. T is float or double.
template <class T>
struct NearestAnchorArgs {
  KvView kv;
  std::int64_t b, S, M;
  const T* anchor_GMK;  // contiguous
  T* unit_GMK;          // scratch: anchors of length 1
  std::int64_t* group_GS;
  T* cosine_GS;
};
void nearest_anchor_cpu(const NearestAnchorArgs<float>& args);
void nearest_anchor_cpu(const NearestAnchorArgs<double>& args);

/// Keys [slot, slot + count) of kv head g; slot is a multiple of 64, count at most 64. `scratch` is
/// 64 · K floats.
QUIRE_DECLARE_KERNEL(void, nearest_anchor_span, const NearestAnchorArgs<float>& args,
                     std::int64_t g, std::int64_t slot, int count, float* scratch)

}  // namespace quire::kernel

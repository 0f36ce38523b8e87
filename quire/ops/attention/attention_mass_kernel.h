#pragma once

#include <cstdint>

#include "quire/base/isa.h"
#include "quire/ops/attention/attention_spec.h"
#include "quire/ops/attention/kv_view.h"

namespace quire::kernel {

/// attention_mass() with everything checked and made plain.
struct AttentionMass {
  const float* q_NHK;  // contiguous
  const std::int32_t* start_J;
  KvView kv;
  AttentionSpec spec;  // scale resolved, alignment chosen
  const float* lse_NH;
  float* mass_PZG;  // added to
  std::int64_t B, N, H;
  bool largest;  // of the probabilities, not their sum
};
void attention_mass_cpu(const AttentionMass& args);

/// What the keys of a chunk (positions [chunk · 256, chunk · 256 + 256)) received from all queries
/// of sequence b with the heads of kv head g. `scratch` is 64 · (K + 3) floats.
QUIRE_DECLARE_KERNEL(void, attention_mass_chunk, const AttentionMass& args, std::int64_t b,
                     std::int64_t g, std::int64_t chunk, float* mass256, float* scratch)

}  // namespace quire::kernel

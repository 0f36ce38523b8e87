#pragma once

#include <cstdint>

#include "quire/base/isa.h"
#include "quire/ops/attention/kv_view.h"

namespace quire::kernel {

/// match_neighbours() with everything checked and made plain.
struct MatchNeighbours {
  KvView kv;
  std::int64_t b, S, window, group_cap, merges;
  float threshold;
  const float* mean_GK;              // null: keys as they are
  const std::uint8_t* protected_GS;  // null: none
  const std::int64_t* position_GS;   // null: slots
  std::int64_t* partner_GS;          // scratch: the even slot, or −1
  std::int64_t* group_GS;
  float* cosine_GS;
  std::int64_t* groups_G;
};
void match_neighbours_cpu(const MatchNeighbours& args);

/// Mean of the keys of each head.
void key_means_cpu(const KvView& kv, std::int64_t b, std::int64_t S, float* mean_GK);

/// The best even slot and its cosine for the odd keys of [slot, slot + count); the even ones get
/// none. `scratch` is 128 · K floats.
QUIRE_DECLARE_KERNEL(void, match_span, const MatchNeighbours& args, std::int64_t g,
                     std::int64_t slot, int count, float* scratch)

struct ProtectedKeys {
  const float* mass_GS;
  std::uint8_t* out_GS;
  std::int64_t G, S, sinks, recent, heavy;
};
void protected_keys_cpu(const ProtectedKeys& args);

}  // namespace quire::kernel

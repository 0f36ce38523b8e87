#pragma once

// Which keys a query sees: the one place that knows alignment and windows.

#include <cstdint>

#include "quire/ops/attention/attention_spec.h"
#include "quire/ops/attention/kv_view.h"

namespace quire::kernel {

/// Positions of keys [begin, end); empty when begin >= end.
struct KeyRange {
  std::int64_t begin, end;
};

[[gnu::always_inline]] static inline std::int64_t view_length(const KvView& kv, std::int64_t b,
                                                              std::int64_t g) {
  return kv.length_stride_G == 0 ? kv.length_BG[b]
                                 : kv.length_BG[b * kv.G + g * kv.length_stride_G];
}

/// The position of slot 0.
[[gnu::always_inline]] static inline std::int64_t view_first(const KvView& kv, std::int64_t b,
                                                             std::int64_t g) {
  if (kv.first_BG == nullptr) return 0;
  return kv.length_stride_G == 0 ? kv.first_BG[b] : kv.first_BG[b * kv.G + g * kv.length_stride_G];
}

/// The position of query `t` of `T`, given the keys' positions.
[[gnu::always_inline]] static inline std::int64_t query_position(const AttentionSpec& spec,
                                                                 KeyRange keys, std::int64_t t,
                                                                 std::int64_t T) {
  return spec.alignment == Alignment::kTopLeft ? keys.begin + t : keys.end - T + t;
}

[[gnu::always_inline]] static inline KeyRange visible(const AttentionSpec& spec, KeyRange keys,
                                                      std::int64_t position) {
  // Differences of positions, not sums with a window: those could overflow.
  KeyRange out = keys;
  if (position - keys.begin > spec.window_left) out.begin = position - spec.window_left;
  if (keys.end - 1 - position > spec.window_right) out.end = position + spec.window_right + 1;
  return out;
}

/// Where the mask of query `t` of sequence `b` with head `h` begins, in elements of mask_TS or
/// allow_TS; the key of slot s is s further.
[[gnu::always_inline]] static inline std::int64_t mask_row(const AttentionSpec& spec,
                                                           std::int64_t b, std::int64_t h,
                                                           std::int64_t t) {
  return b * spec.mask_stride_B + h * spec.mask_stride_H + t * spec.mask_stride;
}

}  // namespace quire::kernel

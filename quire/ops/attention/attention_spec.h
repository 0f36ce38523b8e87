#pragma once

#include <cstdint>

namespace quire {

/// Which key the last query of a sequence stands beside. kBottomRight: the last key (what a cache
/// needs). kTopLeft: query i stands beside key i. kUnset is an error unless the two agree, or
/// nothing depends on positions.
enum class Alignment : std::uint8_t { kUnset, kBottomRight, kTopLeft };

inline constexpr std::int64_t kUnlimited = INT64_MAX;

/// How scores are formed: softcap(scale · q·k) + slope · (key − query position) + bias + mask.
struct AttentionSpec {
  double scale = 0;    // 0: 1/√K
  double softcap = 0;  // c > 0: c · tanh(score / c); 0: none
  // A query at position p sees keys in [p − left, p + right]; right = 0 is causal.
  std::int64_t window_left = kUnlimited;
  std::int64_t window_right = 0;
  Alignment alignment = Alignment::kUnset;
  const float* slope_H = nullptr;  // ALiBi
  const float* sink_H = nullptr;   // a logit without a value
  // Added to the scores of the only sequence; rows are mask_stride apart.
  const float* mask_TS = nullptr;
  std::int64_t mask_stride = 0;
};

}  // namespace quire

#pragma once

#include <cstdint>

namespace quire {

/// Which key the last query of a sequence stands beside. kBottomRight: the last key (what a cache
/// needs). kTopLeft: query i stands beside key i. kUnset is an error unless the two agree, or
/// nothing depends on positions.
enum class Alignment : std::uint8_t { kUnset, kBottomRight, kTopLeft };

/// What queries of f32 meet keys as. kWhole: f32, whatever the pages hold. kLikePages: over pages
/// of bf16, bf16, and so do weights before they meet values, as if the queries were bf16; the
/// output stays f32. Over other pages the two are the same.
enum class QueryRounding : std::uint8_t { kWhole, kLikePages };

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
  // Masks, indexed by the query's place t in its sequence and the key's slot s (0 is the first key
  // of the view): element t·mask_stride + s, moved by b·mask_stride_B for sequence b and by
  // h·mask_stride_H for query head h (0: all share one). A sequence needs as many rows as it has
  // queries and as many columns as it has keys. mask_TS is added to the score, and −inf masks;
  // allow_TS masks where it is 0. With both, either masks.
  const float* mask_TS = nullptr;
  const std::uint8_t* allow_TS = nullptr;
  std::int64_t mask_stride = 0, mask_stride_B = 0, mask_stride_H = 0;
  QueryRounding query_rounding = QueryRounding::kWhole;  // forward only
};

}  // namespace quire

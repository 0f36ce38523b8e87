#pragma once

#include <cstdint>

namespace quire::kernel {

struct Sample {
  const float* logits_V;
  std::int64_t V;
  const std::int32_t* recent_N;  // ids in [0, V)
  std::int64_t N;
  double temperature, top_p, min_p, repeat_penalty;
  std::int64_t top_k;
  double uniform;  // in [0, 1): decides the draw
};

/// What sample_cpu returns instead of an id.
inline constexpr std::int32_t kNotANumber = -1, kInfinite = -2, kNothingFinite = -3;

std::int32_t sample_cpu(const Sample& args);

}  // namespace quire::kernel

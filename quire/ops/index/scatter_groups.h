#pragma once

// The second way through a scatter (scatter_cpu.cpp has the choice).

#include <cstdint>

#include "quire/ops/index/scatter_kernel.h"

namespace quire::kernel {

/// Whether it matters how many came to a place.
inline bool counted(const Scatter& args) {
  return args.combine != Combine::kAssign && (args.combine == Combine::kMean || !args.include);
}
/// What a mean divides by where `count` came.
inline std::int64_t divisor(const Scatter& args, std::int64_t count) {
  return count + (args.include && args.self_counts ? 1 : 0);
}

/// Turns the index around and finishes each place at once.
void scatter_by_groups(const Scatter& args);

}  // namespace quire::kernel

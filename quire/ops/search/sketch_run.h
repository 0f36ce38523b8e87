#pragma once

#include <cstdint>

namespace quire {

/// Keys [begin, begin + n) of a head, which share a mean.
struct SketchRun {
  std::int64_t begin, n;
};

}  // namespace quire

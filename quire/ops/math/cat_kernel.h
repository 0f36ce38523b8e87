#pragma once

#include <cstddef>
#include <cstdint>

namespace quire::kernel {

/// Copies `rows` runs of `run_bytes` bytes to places `step_bytes` apart.
struct CatPart {
  std::byte* out;
  const std::byte* part;
  std::int64_t rows, run_bytes, step_bytes;
};

void cat_part_cpu(const CatPart& args);

}  // namespace quire::kernel

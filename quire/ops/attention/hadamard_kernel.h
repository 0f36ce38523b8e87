#pragma once

#include <cstdint>

namespace quire::kernel {

/// hadamard() of contiguous rows.
struct Hadamard {
  const float* x;
  float* out;
  std::int64_t rows, width;
};
void hadamard_cpu(const Hadamard& args);

}  // namespace quire::kernel

#pragma once

#include <cstdint>

#include "quire/base/isa.h"

namespace quire::kernel {

struct Add {
  float* x_N;
  const float* y_N;
  std::int64_t N;  // elements
};

void add_cpu(const Add& args);

QUIRE_DECLARE_KERNEL(void, add_range, const Add& args, std::int64_t begin, std::int64_t end)

}  // namespace quire::kernel

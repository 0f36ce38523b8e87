#pragma once

#include <cstdint>

#include "quire/base/isa.h"

namespace quire::kernel {

struct Swiglu {
  float* out_N;
  const float* gate_N;
  const float* up_N;
  std::int64_t N;  // elements
};

void swiglu_cpu(const Swiglu& args);

QUIRE_DECLARE_KERNEL(void, swiglu_range, const Swiglu& args, std::int64_t begin, std::int64_t end)

}  // namespace quire::kernel

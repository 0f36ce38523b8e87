#pragma once

#include <cstdint>

#include "quire/base/isa.h"

namespace quire::kernel {

struct RmsNorm {
  float* out_ND;
  const float* x_ND;
  const float* weight_D;
  std::int64_t N, D;
  double epsilon;
};

void rms_norm_cpu(const RmsNorm& args);

QUIRE_DECLARE_KERNEL(void, rms_norm_rows, const RmsNorm& args, std::int64_t begin, std::int64_t end)

}  // namespace quire::kernel

#pragma once

#include <cstdint>

#include "quire/base/dtype_enum.h"
#include "quire/base/isa.h"

namespace quire::kernel {

struct Swiglu {
  float* out_N;
  const float* gate_N;
  const float* up_N;
  std::int64_t N;  // elements
};

void swiglu_cpu(const Swiglu& args);

struct SwigluF64 {
  double* out_N;
  const double* gate_N;
  const double* up_N;
  std::int64_t N;  // elements
};

void swiglu_f64_cpu(const SwigluF64& args);

struct SwigluBackward {
  DType dtype;  // f32 or f64
  void* dgate_N;
  void* dup_N;
  const void* dout_N;
  const void* gate_N;
  const void* up_N;
  std::int64_t N;  // elements
};

void swiglu_backward_cpu(const SwigluBackward& args);

QUIRE_DECLARE_KERNEL(void, swiglu_range, const Swiglu& args, std::int64_t begin, std::int64_t end)

}  // namespace quire::kernel

#pragma once

#include <cstdint>

#include "quire/base/dtype_enum.h"
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

struct RmsNormF64 {
  double* out_ND;
  const double* x_ND;
  const double* weight_D;
  std::int64_t N, D;
  double epsilon;
};

void rms_norm_f64_cpu(const RmsNormF64& args);

struct RmsNormBackward {
  DType dtype;  // f32 or f64
  void* dx_ND;
  void* dweight_D;
  double* scale_N;  // workspace
  const void* dout_ND;
  const void* x_ND;
  const void* weight_D;
  std::int64_t N, D;
  double epsilon;
};

void rms_norm_backward_cpu(const RmsNormBackward& args);

QUIRE_DECLARE_KERNEL(void, rms_norm_rows, const RmsNorm& args, std::int64_t begin, std::int64_t end)

}  // namespace quire::kernel

#pragma once

#include <cstdint>

#include "quire/base/dtype_enum.h"

namespace quire::kernel {

struct CrossEntropy {
  DType dtype;
  void* loss;
  double* lse_N;
  const void* logits_NV;
  const std::int64_t* target_N;
  std::int64_t N, V, ignore, rows;
};
void cross_entropy_cpu(const CrossEntropy& args);

struct CrossEntropyBackward {
  DType dtype;
  void* dlogits_NV;
  const void* dloss;
  const void* logits_NV;
  const std::int64_t* target_N;
  const double* lse_N;
  std::int64_t N, V, ignore, rows;
};
void cross_entropy_backward_cpu(const CrossEntropyBackward& args);

}  // namespace quire::kernel

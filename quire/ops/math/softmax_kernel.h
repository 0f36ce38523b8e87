#pragma once

#include <cstdint>

#include "quire/base/dtype_enum.h"

namespace quire::kernel {

/// Softmax over the middle of [outer, n, inner], row-major, and its backward.
struct Softmax {
  DType dtype;
  void* out;
  const void* x;
  std::int64_t outer, n, inner;
};
void softmax_cpu(const Softmax& args);

struct SoftmaxBackward {
  DType dtype;
  void* dx;
  const void* dout;
  const void* out;
  std::int64_t outer, n, inner;
};
void softmax_backward_cpu(const SoftmaxBackward& args);

}  // namespace quire::kernel

#pragma once

#include <cstdint>
#include <vector>

#include "quire/base/dtype_enum.h"

namespace quire::kernel {

/// values and index are row-major with the lanes last-dimension first; x is read through its
/// strides. Lane l is the l-th choice of coordinates outside the sorted dimension.
struct Sort {
  void* values;
  std::int64_t* index;
  const void* x;
  std::int64_t N, out_step, x_step;  // along the sorted dimension
  std::vector<std::int64_t> sizes;   // of the other dimensions
  std::vector<std::int64_t> out_strides, x_strides;
  DType dtype;
  bool descending;
};

void sort_cpu(const Sort& args);

}  // namespace quire::kernel

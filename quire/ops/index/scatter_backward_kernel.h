#pragma once

#include <cstdint>

#include "quire/base/dtype_enum.h"
#include "quire/ops/index/scatter_kernel.h"

namespace quire::kernel {

/// self, dout and dself are laid out alike (place), src and dsrc too (plain); all of one floating
/// dtype. dself holds dout already, and dsrc zeros.
struct ScatterBackward {
  const Walk* walk;
  void* dself;
  void* dsrc;
  const void* dout;
  const void* self;
  const void* src;
  DType dtype;
  Combine combine;
  bool include;
  bool self_ties;  // self takes a share of an extreme's gradient where it equals it
};

void scatter_backward_cpu(const ScatterBackward& args);

}  // namespace quire::kernel

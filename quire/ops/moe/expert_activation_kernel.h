#pragma once

#include <cstdint>

#include "quire/base/dtype_enum.h"
#include "quire/base/isa.h"
#include "quire/ops/moe/expert_activation_kind.h"

namespace quire::kernel {

/// Rows of an activation, or of its backward.
struct ActivationRows {
  ActivationKind kind;
  PairLayout layout;
  bool pairs;
  double limit, alpha;
  std::int64_t M, F;
  DType dtype;       // f32 or f64
  const void* pre;   // [M, F or 2F]
  const void* dout;  // [M, F]; null: forward
  void* out;         // [M, F], or dpre in backward
};
void activation_cpu(const ActivationRows& args);

QUIRE_DECLARE_KERNEL(void, activation_row, const ActivationRows& args, std::int64_t m)

}  // namespace quire::kernel

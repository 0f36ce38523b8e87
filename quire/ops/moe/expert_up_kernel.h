#pragma once

#include "quire/ops/matmul/grouped_kernel.h"
#include "quire/ops/moe/expert_activation_kernel.h"

namespace quire::kernel {

/// A product with experts whose results are activated while they are in the cache; f32 inputs.
struct ExpertUp {
  GroupedProduct product;     // out: what the activation was given, [rows, M], or null
  ActivationRows activation;  // kind, layout, pairs, limits and F
  void* hidden;               // [rows, F] of product.out_dtype, in the order of product.out_row
};
void expert_up_cpu(const ExpertUp& args);

}  // namespace quire::kernel

#pragma once

#include <cstdint>

#include "quire/base/dtype_enum.h"

namespace quire::kernel {

/// Both losses of N tokens and E experts, f32 or f64. Where `dlogits` is given it gets the gradient
/// times dout, else the loss is returned.
struct RouterLoss {
  DType dtype;
  std::int64_t N, E, choices;
  const void* logits;
  const std::int64_t* experts;  // `choices` of them
  double dout;
  void* dlogits;
};
double balance_loss_cpu(const RouterLoss& args);
double z_loss_cpu(const RouterLoss& args);

}  // namespace quire::kernel

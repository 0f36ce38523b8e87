#pragma once

#include <cstdint>
#include <span>

#include "quire/grad/var.h"
#include "quire/ops/math/rope.h"

namespace quire::grad {

/// As in ops/math/rope.h. The gradients can be differentiated again.
Var rope(const Var& x_NHK, const RopeTable& table, std::span<const std::int64_t> positions);
Var rope_backward(const Var& dout_NHK, const RopeTable& table,
                  std::span<const std::int64_t> positions);

}  // namespace quire::grad

#pragma once

#include <cstdint>
#include <span>

#include "quire/ops/matmul/weight.h"
#include "quire/tensor/tensor.h"

namespace quire {

/// out[n, :] = row ids[n] of the weight.
///
/// ids      [N], each in [0, V)
/// table    V × D, any type
/// returns  f32 [N, D], bit for bit the numbers that the block format stands for
///
/// Throws  ArgumentError for an id out of range, with its position; nothing is computed then.
Tensor embedding(std::span<const std::int32_t> ids, const Weight& table);

}  // namespace quire

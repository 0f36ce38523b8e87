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

/// The same for a table that is trained.
///
/// ids       i64 or i32, any shape and strides, each in [0, V)
/// table_VD  any dtype
/// returns   that dtype; the shape of ids, then D
///
/// Throws  ArgumentError on dtypes and ranks, and for an id out of range, with its position.
/// Source  torch.nn.functional.embedding (2.x), without padding_idx.
Tensor embedding(const Tensor& ids, const Tensor& table_VD);

/// dtable: zeros of [V, D] with every row of dout added where its id stands, in the order of ids.
Tensor embedding_backward(const Tensor& dout, const Tensor& ids, std::int64_t V);

}  // namespace quire

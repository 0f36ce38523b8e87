#pragma once

#include <cstdint>
#include <span>

#include "quire/tensor/tensor.h"

namespace quire {

/// What is attended to exactly.
struct Selection {
  Tensor taken_GM;  // u8: 1 where the cluster was taken
  Tensor tokens_G;  // i64: members of what was taken
};

/// The best clusters of each kv head whose members fit a budget: in order of rank, of equal ones
/// the lower cluster first, up to the first that does not fit.
///
/// rank_GM        f32; NaN ranks last
/// size_GM        i64 >= 0: members; a cluster without members is never taken
/// budget_tokens  at least 0; with as many as there are members everything is taken
///
/// Throws  ArgumentError on shapes, dtypes and negative numbers.
/// Order   bits do not depend on threads; the time is proportional to M.
Selection select_clusters(const Tensor& rank_GM, const Tensor& size_GM, std::int64_t budget_tokens);

/// Marks the `count` best (1, else 0), of equal ones the first; NaN ranks with −∞. All of them,
/// where there are no more. In the calling thread. Throws ArgumentError on sizes, fewer than 2^24.
void select_best(std::span<const float> rank, std::int64_t count, std::span<std::uint8_t> taken);

}  // namespace quire

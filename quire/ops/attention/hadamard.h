#pragma once

#include "quire/tensor/tensor.h"

namespace quire {

/// Turns each row by the orthonormal Walsh–Hadamard matrix: scores of turned queries with turned
/// keys are those of the queries with the keys, and a number that stands out is spread over all.
///   out[…, i] = Σ_j (−1)^(bits that i and j share) · x[…, j] / √n
///
/// x        f32, bf16 or f16 of any rank, any strides; n is the length of its last dimension, or
///          the largest power of two that divides it: then each run of n is turned by itself
/// returns  f32, contiguous
///
/// Its own inverse, and its own backward.
/// Throws  ArgumentError for other dtypes and for rank 0.
/// Order   log2(n) rounds of sums and differences, then one product: the same bits on every
///         instruction set.
/// Source  Fino and Algazi 1976 (the fast form).
Tensor hadamard(const Tensor& x);

}  // namespace quire

#pragma once

#include <cstdint>

#include "quire/tensor/tensor.h"

namespace quire {

/// The product of two tensors, by rank:
///
///   [K]·[K] → []      [N,K]·[K,M] → [N,M]      [K]·[K,M] → [M]      [N,K]·[K] → [N]
///   […,N,K]·[…,K,M] → […,N,M]      the leading dimensions broadcast; a vector on either side is
///                                  one row or one column, and its dimension goes again
///
/// a, b     f64, f32, bf16 or f16, the same; rank at least 1; any strides
/// returns  that dtype; bf16 and f16 are multiplied in f32 and rounded once. K = 0 gives zeros
///
/// Throws  ArgumentError on dtypes and ranks, and naming the dimension and both sizes.
/// Order   f32: each output is one chain of FMAs over k (f64: multiply, then add), whatever the
///         other sizes and the number of threads.
/// Memory  row-major copies of a and b where they are not; 256 bytes for each k and thread.
/// Source  torch.matmul (2.x).
Tensor matmul(const Tensor& a, const Tensor& b);

/// Whether a backward computes a gradient: what nobody wants costs nothing.
enum class Want : std::uint8_t { kYes, kNo };

/// da = dout·bᵀ and db = aᵀ·dout, in the shapes of a and b: summed over what was broadcast, in the
/// order of the leading dimensions, as part of the same chains. One that is not wanted is Tensor(),
/// and the other factor's values are not read then. Throws as `matmul`.
struct MatmulGradients {
  Tensor da, db;
};
MatmulGradients matmul_backward(const Tensor& dout, const Tensor& a, const Tensor& b,
                                Want want_da = Want::kYes, Want want_db = Want::kYes);

}  // namespace quire

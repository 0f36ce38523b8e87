#pragma once

#include "quire/tensor/tensor.h"

namespace quire {

/// Products of groups of rows or columns, each with a matrix of its own. Group e has the places
/// from ends[e − 1] (0 at first) to ends[e]:
///
///   [N,K]·[E,K,M] → [N,M]     groups of rows of a: each times its matrix; later rows give zeros
///   [E,N,K]·[K,M] → [N,M]     groups of columns of b; later columns give zeros
///   [N,K]·[K,M] → [E,N,M]     groups of the inner dimension; later places are ignored, an empty
///                             group gives zeros
///   [E,N,K]·[E,K,M] → [E,N,M] without ends: a plain batch
///
/// a, b     f64, f32, bf16 or f16, the same; any strides
/// ends_E   i32 or i64, not falling, from 0 to the size that is grouped
/// returns  that dtype; bf16 and f16 are multiplied in f32 and rounded once
///
/// Throws  ArgumentError on dtypes, ranks, sizes, and on ends before anything is written.
/// Order   as matmul (dense.h): one chain over the inner dimension for each output, the same bits
///         with any number of threads. f32 is never rounded to anything shorter.
/// Memory  row-major copies where neither of a matrix's dimensions is contiguous; the rows in f32
///         for bf16 and f16.
/// Source  torch.nn.functional.grouped_mm (2.15).
Tensor grouped_matmul(const Tensor& a, const Tensor& b, const Tensor& ends_E);
/// Without groups: both of rank 3.
Tensor grouped_matmul(const Tensor& a, const Tensor& b);

/// Gradients in the shapes of a and b; zeros for what no group holds. Throws as `grouped_matmul`.
struct GroupedMatmulGradients {
  Tensor da, db;
};
GroupedMatmulGradients grouped_matmul_backward(const Tensor& dout, const Tensor& a, const Tensor& b,
                                               const Tensor& ends_E);

}  // namespace quire

#pragma once

#include "quire/tensor/tensor.h"

namespace quire {

/// How fast this machine reads rows at random places: what gather and scatter_reduce are compared
/// with. Nothing but reads, on the threads of thread_pool(), each row fetched ahead of its turn.
///
/// rows_ND  f32, contiguous; far larger than the caches for the rate of memory
/// index_N  i64, contiguous, values in [0, N): a permutation reads every row once
/// rounds   at least 1; the best of them counts
/// returns  bytes of rows and index, N·D·4 + N·8, in a second
///
/// Throws  ArgumentError on the above.
double random_row_rate(const Tensor& rows_ND, const Tensor& index_N, int rounds);

}  // namespace quire

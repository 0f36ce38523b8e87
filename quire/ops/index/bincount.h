#pragma once

#include <cstdint>

#include "quire/tensor/tensor.h"

namespace quire {

/// How often each value occurs: out[v] = the number of n with x[n] = v.
///
/// x_N         an integer dtype, values at least 0
/// min_length  at least 0
/// returns     i64, max(largest value + 1, min_length) numbers
///
/// Throws  ArgumentError on the above, with the position of a negative value; OutOfMemory.
/// Source  torch.bincount (2.x).
Tensor bincount(const Tensor& x_N, std::int64_t min_length = 0);
/// The sum of the weights of each value, in the order of x: f32 for f32 weights, else f64; i64
/// zeros where x has no elements, as in PyTorch. Throws as above, and on another number of weights.
Tensor bincount(const Tensor& x_N, const Tensor& weights_N, std::int64_t min_length = 0);

/// How often each of 0 … size - 1 occurs in x (an integer dtype, any shape), as i64 [size]; all
/// other values are ignored. Throws ArgumentError on the dtype and a negative size.
Tensor continuous_count(const Tensor& x, std::int64_t size);

/// How many elements lie in each of `bins` equal parts of [low, high], the last one closed; others,
/// and NaN, are ignored. low = high = 0 means the range of x. x is f32 or f64 of any shape; the
/// counts come back in its dtype. The bin is computed in that dtype, as (x - low) · bins / (high -
/// low). Throws ArgumentError unless bins > 0, low <= high, and both are finite.
/// Source: torch.histc (2.x).
Tensor histc(const Tensor& x, std::int64_t bins, double low = 0, double high = 0);

}  // namespace quire

#pragma once

#include <cstdint>
#include <optional>

#include "quire/tensor/tensor.h"

namespace quire {

/// Repeats each slice along a dimension, one after another: 1 2 3 twice is 1 1 2 2 3 3.
///
/// x            any dtype and strides
/// repeats      at least 0; a tensor: i64 or i32, one number per slice, or a single one for all
/// dim          in [-r, r); without one x is taken as flat, in row-major order
/// output_size  what the repeats add up to, when the caller wants that checked
/// returns      x's dtype; x's shape with the sum of the repeats at `dim`
///
/// Throws  ArgumentError on the above before anything is written, with the position of a negative
///         number of repeats.
/// Source  torch.repeat_interleave (2.x).
Tensor repeat_interleave(const Tensor& x, std::int64_t repeats,
                         std::optional<int> dim = std::nullopt,
                         std::optional<std::int64_t> output_size = std::nullopt);
/// One number of repeats per slice. Throws as above.
Tensor repeat_interleave(const Tensor& x, const Tensor& repeats_N,
                         std::optional<int> dim = std::nullopt,
                         std::optional<std::int64_t> output_size = std::nullopt);
/// The one-argument form: the index of the slice that each repetition comes from, as i64; [1, 2, 0]
/// gives [0, 1, 1]. Throws as above.
Tensor repeat_interleave_index(const Tensor& repeats_N,
                               std::optional<std::int64_t> output_size = std::nullopt);

/// dx in `x_shape`: the sum over each slice's repetitions, in order. Throws as repeat_interleave
/// does, and on a dout of another shape than its result.
Tensor repeat_interleave_backward(const Tensor& dout, const Shape& x_shape, std::int64_t repeats,
                                  std::optional<int> dim = std::nullopt);
/// The same for one number of repeats per slice.
Tensor repeat_interleave_backward(const Tensor& dout, const Shape& x_shape, const Tensor& repeats_N,
                                  std::optional<int> dim = std::nullopt);

}  // namespace quire

#pragma once

#include <optional>

#include "quire/ops/index/reduce.h"
#include "quire/tensor/tensor.h"

namespace quire {

/// Reduces runs of slices: for dim 0, out[b] = reduce of x[n] for n in [start[b], start[b + 1]).
///
/// x        a floating dtype, any strides, rank at least 1
/// start_J  i64 or i32: 0, then the ends of B = J - 1 runs, none before the one ahead, the last
///          equal to x.size(dim). Behind other dimensions, the runs of all alike, or of each its
///          own: x's shape before `dim`, then J
/// initial  takes part in every run first; a mean adds it without counting it
/// dim      in [-rank, rank)
/// returns  x's dtype, x's shape with B at `dim`; an empty run gives `initial`, else 0, 1, NaN,
///          -inf, +inf for sum, prod, mean, amax, amin
///
/// Throws  ArgumentError on the above before anything is written.
/// Order   slices are combined in order, whatever the number of threads; f16 and bf16 in f32.
/// Memory  the run of each slice, one i64.
/// Source  torch.segment_reduce (2.x).
Tensor segment_reduce(const Tensor& x, const Tensor& start_J, Reduce reduce,
                      std::optional<double> initial = std::nullopt, int dim = 0);

/// dx in x's shape; dout has the shape of the result. The rules are those of
/// scatter_reduce_backward (scatter_reduce.h); `initial` takes no share of an extreme's gradient.
/// Throws as segment_reduce does, and on dout's shape.
Tensor segment_reduce_backward(const Tensor& dout, const Tensor& x, const Tensor& start_J,
                               Reduce reduce, std::optional<double> initial = std::nullopt,
                               int dim = 0);

/// Prefix sums along the last dimension: 0 and the running sums of lengths_B (i64 or i32, rank at
/// least 1, none negative), as i64 with B + 1 last. Throws ArgumentError on these.
Tensor starts_of_lengths(const Tensor& lengths_B);

}  // namespace quire

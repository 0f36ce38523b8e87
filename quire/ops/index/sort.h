#pragma once

#include <cstdint>

#include "quire/tensor/tensor.h"

namespace quire {

/// Which end comes first.
enum class SortOrder : std::uint8_t { kAscending, kDescending };

/// The sorted elements and where each stood, i64.
struct Sorted {
  Tensor values, index;
};

/// Sorts along one dimension, stably: equal elements keep their order in both directions. NaN
/// counts as larger than everything (last when ascending, first when descending), -0 equals +0, and
/// each keeps its bits.
///
/// x        any dtype and strides; rank 0 counts as one dimension of size 1
/// dim      in [-r, r)
/// returns  both of x's shape
///
/// Throws  ArgumentError on dim.
/// Memory  two numbers per element of a lane and thread.
/// Source  torch.sort(stable=True) (2.x).
Sorted sort(const Tensor& x, int dim = -1, SortOrder order = SortOrder::kAscending);
/// Only where each element stood. Throws as sort does.
Tensor argsort(const Tensor& x, int dim = -1, SortOrder order = SortOrder::kAscending);

/// dx: every element of dvalues where it came from, by the index that `sort` returned. Throws
/// ArgumentError on dim, on shapes that differ, and on an index out of range.
Tensor sort_backward(const Tensor& dvalues, int dim, const Tensor& index);

}  // namespace quire

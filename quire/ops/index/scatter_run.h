#pragma once

// scatter and all reductions, from tensors to the kernel.

#include <string_view>

#include "quire/ops/index/reduce.h"
#include "quire/ops/index/scatter_kernel.h"
#include "quire/tensor/tensor.h"

namespace quire::detail {

/// One call: names for messages, and what to do where elements meet.
struct ScatterCall {
  int dim;
  const Tensor& index;
  const Tensor& src;
  kernel::Combine combine;
  bool include = true;
  bool self_counts = true;
  double alpha = 1;
  std::string_view src_name = "src";
};

kernel::Combine to_combine(Reduce reduce);

Tensor scatter_new(const Tensor& self, const ScatterCall& call);
void scatter_in_place(Tensor& self, const ScatterCall& call);
void scatter_into(Tensor& out, const Tensor& self, const ScatterCall& call);

/// The index of the slice ops, of rank 1, seen with `shape`, whose dimension `dim` it runs along.
/// i64; its dtype, rank and length (shape[dim]) are checked.
Tensor expand_index(const Tensor& index_N, int dim, const Shape& shape, std::string_view like);

/// The number of elements of index_N: rank 1, or rank 0 as one element.
std::int64_t index_length(const Tensor& index_N);

/// A copy of `part` in the first corner of zeros of `shape`.
Tensor padded(const Tensor& part, const Shape& shape);

}  // namespace quire::detail

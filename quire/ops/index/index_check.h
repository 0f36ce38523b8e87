#pragma once

// What the ops of this room check and prepare alike.

#include <string_view>

#include "quire/ops/index/walk.h"
#include "quire/tensor/tensor.h"

namespace quire::detail {

/// The dimension counted from the front. A tensor of rank 0 has one dimension here.
int wrap_dim(int dim, int rank);

/// Rank 0 seen as one dimension of size 1.
Tensor at_least_1d(const Tensor& x);

/// Throws unless the dtype is i64 or i32.
void check_index_dtype(const Tensor& index, std::string_view name = "index");
void check_floating(const Tensor& x, std::string_view name);
void check_same_dtype(const Tensor& x, std::string_view name, const Tensor& self);
void check_same_shape(const Tensor& x, std::string_view name, const Shape& shape);

/// index.size(d) <= other.size(d) for every d but `except`; equal ranks.
void check_fits(const Tensor& index, const Tensor& other, std::string_view other_name, int except);

/// The slices of self that index_N names are as large as those of source, and as many.
void check_slices(const Tensor& self, int dim, const Tensor& index_N, const Tensor& source);

/// 0, 1, … count - 1, as i64.
Tensor count_up(std::int64_t count);

/// i64, with expanded dimensions still expanded.
Tensor widen_index(const Tensor& index);

/// The index, i64: expanded where a long one names whole slices behind `dim`, an entry for each of
/// their elements written out. What follows then moves rows.
Tensor with_rows_expanded(const Tensor& index, int dim);

/// Throws, with position and value, unless every value of an i64 index is in [0, size).
void check_index_values(const Tensor& index, std::int64_t size, int dim);

/// Throws when x, which is to be written, is expanded.
void check_no_overlap(const Tensor& x, std::string_view name);
/// Throws when `other` shares memory with x, which is to be written. Two views that interleave may
/// have no element in common: `other` is replaced by a copy then.
void separate(const Tensor& x, std::string_view name, Tensor& other, std::string_view other_name);

/// The index with `size` added to its negative values, in memory of its own.
Tensor count_from_end(const Tensor& index, std::int64_t size, int dim);

/// The walk of `index` (i64, rank of the others, at least 1) over place and plain.
kernel::Walk make_walk(const Tensor& index, int dim, const Tensor& place, const Tensor& plain);

}  // namespace quire::detail

#pragma once

#include <optional>

#include "quire/grad/var.h"
#include "quire/ops/index/reduce.h"
#include "quire/ops/index/sort.h"

/// The functions of ops/index for Vars: the same names, arguments, results and errors. The
/// gradients of gather, scatter_add, index_select, and scatter_reduce with kSum and kMean can be
/// differentiated again; of the others not.
namespace quire::grad {

/// As in gather.h, take_along_dim.h, index_select.h.
Var gather(const Var& self, int dim, const Tensor& index);
Var take_along_dim(const Var& self, const Tensor& index, std::optional<int> dim = std::nullopt);
Var index_select(const Var& self, int dim, const Tensor& index_N);

/// As in scatter.h, scatter_reduce.h. Of several writes of scatter to one place each receives the
/// gradient, as in PyTorch.
Var scatter(const Var& self, int dim, const Tensor& index, const Var& src);
Var scatter_add(const Var& self, int dim, const Tensor& index, const Var& src);
Var scatter_reduce(const Var& self, int dim, const Tensor& index, const Var& src, Reduce reduce,
                   IncludeSelf include = IncludeSelf::kYes, Ties ties = Ties::kTorch);

/// As in index_add.h, index_reduce.h.
Var index_add(const Var& self, int dim, const Tensor& index_N, const Var& source, double alpha = 1);
Var index_reduce(const Var& self, int dim, const Tensor& index_N, const Var& source, Reduce reduce,
                 IncludeSelf include = IncludeSelf::kYes, Ties ties = Ties::kTorch);

/// As in repeat_interleave.h.
Var repeat_interleave(const Var& x, std::int64_t repeats, std::optional<int> dim = std::nullopt);
Var repeat_interleave(const Var& x, const Tensor& repeats_N, std::optional<int> dim = std::nullopt);

/// As in segment_reduce.h.
Var segment_reduce(const Var& x, const Tensor& start_J, Reduce reduce,
                   std::optional<double> initial = std::nullopt, int dim = 0);

/// The gradient goes back by the index.
struct SortedVar {
  Var values;
  Tensor index;
};
SortedVar sort(const Var& x, int dim = -1, SortOrder order = SortOrder::kAscending);

}  // namespace quire::grad

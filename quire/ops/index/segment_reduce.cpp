#include "quire/ops/index/segment_reduce.h"

#include <algorithm>
#include <limits>
#include <string>

#include "quire/base/error.h"
#include "quire/ops/index/index_check.h"
#include "quire/ops/index/scatter_backward_kernel.h"
#include "quire/ops/index/scatter_run.h"

namespace quire {
namespace {

// What an empty run gives.
double of_nothing(Reduce reduce) {
  constexpr double kInfinity = std::numeric_limits<double>::infinity();
  switch (reduce) {
    case Reduce::kSum:
      return 0;
    case Reduce::kProd:
      return 1;
    case Reduce::kMean:
      return std::numeric_limits<double>::quiet_NaN();
    case Reduce::kAmax:
      return -kInfinity;
    case Reduce::kAmin:
      break;
  }
  return kInfinity;
}

// "start[3]", or "start[2, 3]" where each of several rows has its own.
std::string entry(std::string_view name, const Tensor& of, std::int64_t row, std::int64_t column) {
  const std::string place = std::to_string(column);
  return concat(name, "[", of.rank() == 1 ? place : concat(row, ", ", place), "]");
}

// The run of each slice, as an index with x's shape, and the tensor that runs reduce into.
struct Runs {
  int dim;
  Tensor index, self;
};

void check_starts(const Tensor& x, int dim, const Tensor& start_J) {
  detail::check_index_dtype(start_J, "start");
  QUIRE_CHECK(start_J.rank() == 1 || start_J.rank() == dim + 1, "start: rank is ", start_J.rank(),
              ", expected 1", dim == 0 ? std::string() : concat(" or ", dim + 1));
  for (int d = 0; d + 1 < start_J.rank(); ++d) {
    QUIRE_CHECK(start_J.size(d) == x.size(d), "start: size is ", start_J.size(d), " at dim ", d,
                ", but x has ", x.size(d), " there");
  }
  QUIRE_CHECK(start_J.size(-1) >= 1, "start: size is 0 at dim ", start_J.rank() - 1,
              ", expected at least 1");
}

// For each row of starts, the run that each of N positions belongs to.
Tensor runs_of(const Tensor& start_J, int dim, std::int64_t N) {
  const Tensor starts = detail::widen_index(start_J).contiguous_copy();
  const std::int64_t J = starts.size(-1), rows = starts.elements() / J;
  Tensor out = Tensor::empty({rows, N}, DType::kI64);
  std::int64_t* to = out.elements() == 0 ? nullptr : out.mutable_data<std::int64_t>();
  for (std::int64_t row = 0; row < rows; ++row) {
    const std::int64_t* start = starts.data<std::int64_t>() + row * J;
    const auto name = [&](std::int64_t b) { return entry("start", starts, row, b); };
    QUIRE_CHECK(start[0] == 0, name(0), " is ", start[0], ", expected 0");
    for (std::int64_t b = 0; b + 1 < J; ++b) {
      QUIRE_CHECK(start[b + 1] >= start[b], name(b + 1), " is ", start[b + 1],
                  ", less than the one before, ", start[b]);
    }
    QUIRE_CHECK(start[J - 1] == N, name(J - 1), " is ", start[J - 1], ", but x has size ", N,
                " at dim ", dim);
    for (std::int64_t b = 0; b + 1 < J; ++b)
      std::fill(to + row * N + start[b], to + row * N + start[b + 1], b);
  }
  return out;
}

Runs check(const Tensor& x, const Tensor& start_J, Reduce reduce, std::optional<double> initial,
           int dim) {
  QUIRE_CHECK(is_floating(x.dtype()), "x is ", to_string(x.dtype()),
              ", expected f64, f32, bf16 or f16");
  QUIRE_CHECK(x.rank() >= 1, "x: rank is 0, expected at least 1");
  const int at = detail::wrap_dim(dim, x.rank());
  check_starts(x, at, start_J);
  // 1 where the runs are the same for all, and behind `dim`.
  Shape seen(x.shape().size(), 1), shape = x.shape();
  std::copy_n(x.shape().begin(), start_J.rank() == 1 ? 0 : at, seen.begin());
  seen[static_cast<std::size_t>(at)] = x.size(at);
  shape[static_cast<std::size_t>(at)] = start_J.size(-1) - 1;
  const double nothing = initial.value_or(of_nothing(reduce));
  const Tensor one = Tensor::of<double>(std::span(&nothing, 1), {1}).to(x.dtype());
  return {at, runs_of(start_J, at, x.size(at)).view(seen).expand(x.shape()),
          one.view(Shape(shape.size(), 1)).expand(shape)};
}

}  // namespace

Tensor segment_reduce(const Tensor& x, const Tensor& start_J, Reduce reduce,
                      std::optional<double> initial, int dim) {
  const Runs runs = check(x, start_J, reduce, initial, dim);
  return detail::scatter_new(runs.self, {.dim = runs.dim,
                                         .index = runs.index,
                                         .src = x,
                                         .combine = detail::to_combine(reduce),
                                         .include = initial.has_value(),
                                         .self_counts = false,
                                         .alpha = 1,
                                         .src_name = "x"});
}

Tensor segment_reduce_backward(const Tensor& dout, const Tensor& x, const Tensor& start_J,
                               Reduce reduce, std::optional<double> initial, int dim) {
  const Runs runs = check(x, start_J, reduce, initial, dim);
  detail::check_same_dtype(dout, "dout", x);
  detail::check_same_shape(dout, "dout", runs.self.shape());
  Tensor dx = Tensor::zeros(x.shape(), x.dtype(), x.device());
  if (x.elements() == 0) return dx;
  Tensor dself = dout.to(dout.dtype());  // room for a gradient that nobody asks for
  const Tensor same_dout = dout.contiguous_copy(), same_x = x.contiguous_copy(),
               same_self = runs.self.contiguous_copy();
  const kernel::Walk walk = detail::make_walk(runs.index, runs.dim, dself, dx);
  kernel::scatter_backward_cpu({.walk = &walk,
                                .dself = dself.mutable_data<void>(),
                                .dsrc = dx.mutable_data<void>(),
                                .dout = same_dout.data<void>(),
                                .self = same_self.data<void>(),
                                .src = same_x.data<void>(),
                                .dtype = x.dtype(),
                                .combine = detail::to_combine(reduce),
                                .include = initial.has_value() && reduce != Reduce::kMean,
                                .self_ties = false});
  return dx;
}

Tensor starts_of_lengths(const Tensor& lengths_B) {
  detail::check_index_dtype(lengths_B, "lengths");
  QUIRE_CHECK(lengths_B.rank() >= 1, "lengths: rank is 0, expected at least 1");
  const Tensor lengths = detail::widen_index(lengths_B).contiguous_copy();
  const std::int64_t B = lengths.size(-1);
  Shape shape = lengths.shape();
  shape.back() = B + 1;
  Tensor out = Tensor::zeros(shape, DType::kI64);
  std::int64_t* start = out.elements() == 0 ? nullptr : out.mutable_data<std::int64_t>();
  const std::int64_t* length = lengths.data<std::int64_t>();
  for (std::int64_t row = 0; row < out.elements() / (B + 1); ++row) {
    for (std::int64_t b = 0; b < B; ++b) {
      QUIRE_CHECK(length[b] >= 0, entry("lengths", lengths, row, b), " is ", length[b],
                  ", expected at least 0");
      QUIRE_CHECK(!__builtin_add_overflow(start[b], length[b], &start[b + 1]),
                  "lengths add up to more than 2^63 - 1 at ", entry("lengths", lengths, row, b));
    }
    start += B + 1;
    length += B;
  }
  return out;
}

}  // namespace quire

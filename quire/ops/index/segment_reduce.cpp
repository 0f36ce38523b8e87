#include "quire/ops/index/segment_reduce.h"

#include <limits>

#include "quire/base/error.h"
#include "quire/ops/index/index_check.h"
#include "quire/ops/index/repeat_interleave.h"
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

// The run of each row, as an index with x's shape, and the tensor that runs reduce into.
struct Runs {
  Tensor index, self;
};

Runs check(const Tensor& x, const Tensor& start_J, Reduce reduce, std::optional<double> initial) {
  QUIRE_CHECK(is_floating(x.dtype()), "x is ", to_string(x.dtype()),
              ", expected f64, f32, bf16 or f16");
  QUIRE_CHECK(x.rank() >= 1, "x: rank is 0, expected at least 1");
  detail::check_index_dtype(start_J, "start");
  QUIRE_CHECK(start_J.rank() == 1, "start: rank is ", start_J.rank(), ", expected 1");
  const std::int64_t B = start_J.elements() - 1;
  QUIRE_CHECK(B >= 0, "start: size is 0, expected at least 1");
  const Tensor starts = detail::widen_index(start_J).contiguous_copy();
  const std::int64_t* start = starts.data<std::int64_t>();
  QUIRE_CHECK(start[0] == 0, "start[0] is ", start[0], ", expected 0");
  Tensor lengths = Tensor::empty({B}, DType::kI64);
  for (std::int64_t b = 0; b < B; ++b) {
    QUIRE_CHECK(start[b + 1] >= start[b], "start[", b + 1, "] is ", start[b + 1],
                ", less than the one before, ", start[b]);
    lengths.mutable_data<std::int64_t>()[b] = start[b + 1] - start[b];
  }
  QUIRE_CHECK(start[B] == x.size(0), "start[", B, "] is ", start[B], ", but x has ", x.size(0),
              " rows at dim 0");
  Shape shape = x.shape();
  shape[0] = B;
  const double nothing = initial.value_or(of_nothing(reduce));
  const Tensor one = Tensor::of<double>(std::span(&nothing, 1), {1}).to(x.dtype());
  const Tensor self = one.view(Shape(shape.size(), 1)).expand(shape);
  return {detail::expand_index(repeat_interleave_index(lengths), 0, x.shape(), "x"), self};
}

}  // namespace

Tensor segment_reduce(const Tensor& x, const Tensor& start_J, Reduce reduce,
                      std::optional<double> initial) {
  const Runs runs = check(x, start_J, reduce, initial);
  return detail::scatter_new(runs.self, {.dim = 0,
                                         .index = runs.index,
                                         .src = x,
                                         .combine = detail::to_combine(reduce),
                                         .include = initial.has_value(),
                                         .self_counts = false,
                                         .alpha = 1,
                                         .src_name = "x"});
}

Tensor segment_reduce_backward(const Tensor& dout, const Tensor& x, const Tensor& start_J,
                               Reduce reduce, std::optional<double> initial) {
  const Runs runs = check(x, start_J, reduce, initial);
  detail::check_same_dtype(dout, "dout", x);
  detail::check_same_shape(dout, "dout", runs.self.shape());
  Tensor dx = Tensor::zeros(x.shape(), x.dtype(), x.device());
  if (x.elements() == 0) return dx;
  Tensor dself = dout.to(dout.dtype());  // room for a gradient that nobody asks for
  const Tensor same_dout = dout.contiguous_copy(), same_x = x.contiguous_copy(),
               same_self = runs.self.contiguous_copy();
  const kernel::Walk walk = detail::make_walk(runs.index, 0, dself, dx);
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
  QUIRE_CHECK(lengths_B.rank() == 1, "lengths: rank is ", lengths_B.rank(), ", expected 1");
  const Tensor lengths = detail::widen_index(lengths_B).contiguous_copy();
  const std::int64_t B = lengths.elements();
  Tensor out = Tensor::zeros({B + 1}, DType::kI64);
  std::int64_t* start = out.mutable_data<std::int64_t>();
  for (std::int64_t b = 0; b < B; ++b) {
    const std::int64_t length = lengths.data<std::int64_t>()[b];
    QUIRE_CHECK(length >= 0, "lengths[", b, "] is ", length, ", expected at least 0");
    QUIRE_CHECK(!__builtin_add_overflow(start[b], length, &start[b + 1]),
                "lengths add up to more than 2^63 - 1 at ", b);
  }
  return out;
}

}  // namespace quire

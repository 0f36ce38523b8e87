#include "quire/ops/index/scatter_run.h"

#include "quire/base/error.h"
#include "quire/ops/index/index_check.h"

namespace quire::detail {
namespace {

// The wrapped dim.
int check(const Tensor& self, const ScatterCall& call) {
  const int at = wrap_dim(call.dim, self.rank());
  check_same_dtype(call.src, call.src_name, self);
  QUIRE_CHECK(call.combine != kernel::Combine::kMean || self.dtype() != DType::kBool,
              "self is bool, which has no mean");
  if (call.index.elements() == 0) return at;
  check_index_dtype(call.index);
  const Tensor index = at_least_1d(call.index);
  check_fits(index, at_least_1d(self), "self", at);
  check_fits(index, at_least_1d(call.src), call.src_name, -1);
  return at;
}

struct Ready {
  Tensor index, src;
  int at;
};

// Everything that can be wrong with the inputs is found here, before anything is written.
Ready prepare(const Tensor& self, const ScatterCall& call, int at) {
  Ready ready{with_rows_expanded(at_least_1d(widen_index(call.index)), at), at_least_1d(call.src),
              at};
  check_index_values(ready.index, at_least_1d(self).size(at), at);
  return ready;
}

kernel::Scatter arguments(const kernel::Walk& walk, const Tensor& self, const Ready& ready,
                          const ScatterCall& call) {
  return {.walk = &walk,
          .out = nullptr,
          .self = self.data<void>(),
          .src = ready.src.data<void>(),
          .out_elements = self.elements(),
          .dtype = self.dtype(),
          .combine = call.combine,
          .include = call.include,
          .self_counts = call.self_counts,
          .alpha = call.alpha};
}

void run_in_place(Tensor& out, const Ready& ready, const ScatterCall& call) {
  Tensor place = at_least_1d(out);
  const kernel::Walk walk = make_walk(ready.index, ready.at, place, ready.src);
  kernel::Scatter args = arguments(walk, place, ready, call);
  args.out = place.mutable_data<void>();
  args.self = args.out;
  kernel::scatter_cpu(args);
}

// out = self, all of it: one slice along a new dimension in front is put at its place 0.
void copy_into(Tensor& out, const Tensor& self) {
  if (out.elements() == 0) return;
  Shape shape = out.shape();
  shape.insert(shape.begin(), 1);
  Tensor place = out.expand(shape);
  const Tensor plain = self.expand(shape);
  const Tensor index = Tensor::zeros(Shape(shape.size(), 1), DType::kI64).expand(shape);
  const kernel::Walk walk = make_walk(index, 0, place, plain);
  void* data = place.mutable_data<void>();
  kernel::scatter_cpu({.walk = &walk,
                       .out = data,
                       .self = data,
                       .src = plain.data<void>(),
                       .out_elements = out.elements(),
                       .dtype = out.dtype(),
                       .combine = kernel::Combine::kAssign,
                       .include = true,
                       .self_counts = true,
                       .alpha = 1});
}

}  // namespace

kernel::Combine to_combine(Reduce reduce) {
  switch (reduce) {
    case Reduce::kSum:
      return kernel::Combine::kSum;
    case Reduce::kProd:
      return kernel::Combine::kProd;
    case Reduce::kMean:
      return kernel::Combine::kMean;
    case Reduce::kAmax:
      return kernel::Combine::kAmax;
    case Reduce::kAmin:
      break;
  }
  return kernel::Combine::kAmin;
}

Tensor scatter_new(const Tensor& self, const ScatterCall& call) {
  const int at = check(self, call);
  if (call.index.elements() == 0) return self.to(self.dtype());
  const Ready ready = prepare(self, call, at);
  if (self.contiguous()) {
    const Tensor place = at_least_1d(self);
    const kernel::Walk walk = make_walk(ready.index, at, place, ready.src);
    kernel::Scatter args = arguments(walk, place, ready, call);
    if (kernel::scatter_fills(args)) {
      Tensor out = Tensor::empty(self.shape(), self.dtype(), self.device());
      args.out = out.mutable_data<void>();
      kernel::scatter_cpu(args);
      return out;
    }
  }
  Tensor out = self.to(self.dtype());
  run_in_place(out, ready, call);
  return out;
}

void scatter_in_place(Tensor& self, const ScatterCall& call) {
  const int at = check(self, call);
  check_no_overlap(self, "self");
  if (call.index.elements() == 0) return;
  Ready ready = prepare(self, call, at);
  separate(self, "self", ready.index, "index");
  separate(self, "self", ready.src, call.src_name);
  run_in_place(self, ready, call);
}

void scatter_into(Tensor& out, const Tensor& self, const ScatterCall& call) {
  const int at = check(self, call);
  check_same_dtype(out, "out", self);
  check_same_shape(out, "out", self.shape());
  check_no_overlap(out, "out");
  Tensor from = self;
  separate(out, "out", from, "self");
  if (call.index.elements() == 0) return copy_into(out, from);
  Ready ready = prepare(self, call, at);
  separate(out, "out", ready.index, "index");
  separate(out, "out", ready.src, call.src_name);
  if (out.contiguous() && from.contiguous()) {
    const Tensor place = at_least_1d(from);
    const kernel::Walk walk = make_walk(ready.index, at, place, ready.src);
    kernel::Scatter args = arguments(walk, place, ready, call);
    if (kernel::scatter_fills(args)) {
      args.out = out.mutable_data<void>();
      return kernel::scatter_cpu(args);
    }
  }
  copy_into(out, from);
  run_in_place(out, ready, call);
}

std::int64_t index_length(const Tensor& index_N) {
  QUIRE_CHECK(index_N.rank() <= 1, "index: rank is ", index_N.rank(), ", expected 1");
  return index_N.elements();
}

Tensor expand_index(const Tensor& index_N, int dim, const Shape& shape, std::string_view like) {
  const std::int64_t length = index_length(index_N);
  const std::int64_t size = shape.empty() ? 1 : shape[static_cast<std::size_t>(dim)];
  QUIRE_CHECK(length == size, "index: size is ", length, ", but ", like, " has size ", size,
              " at dim ", dim);
  Tensor wide = length == 0 ? Tensor::empty({0}, DType::kI64) : index_N;
  check_index_dtype(wide);
  wide = widen_index(at_least_1d(wide));
  if (shape.empty()) return wide.contiguous_copy().view({});
  Shape ones(shape.size(), 1);
  ones[static_cast<std::size_t>(dim)] = length;
  return wide.contiguous_copy().view(ones).expand(shape);
}

Tensor padded(const Tensor& part, const Shape& shape) {
  if (part.shape() == shape) return part;
  Tensor out = Tensor::zeros(shape, part.dtype(), part.device());
  Tensor corner = at_least_1d(out);
  const Tensor from = at_least_1d(part);
  for (int d = 0; d < from.rank(); ++d) corner = corner.slice(d, 0, from.size(d));
  copy_into(corner, from);
  return out;
}

}  // namespace quire::detail

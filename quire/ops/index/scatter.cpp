#include "quire/ops/index/scatter.h"

#include <cmath>

#include "quire/base/error.h"
#include "quire/ops/index/gather.h"
#include "quire/ops/index/index_check.h"
#include "quire/ops/index/scatter_run.h"

namespace quire {
namespace {

using kernel::Combine;

// One element of the dtype.
Tensor scalar(double value, DType dtype) {
  if (is_floating(dtype)) return Tensor::of<double>(std::span(&value, 1), {1}).to(dtype);
  QUIRE_CHECK(std::abs(value) <= 0x1p53, "value is ", value, ", which ", to_string(dtype),
              " does not have");
  const std::int64_t whole =
      dtype == DType::kBool ? (value != 0 ? 1 : 0) : static_cast<std::int64_t>(value);
  return Tensor::of<std::int64_t>(std::span(&whole, 1), {1}).to(dtype);
}

// The value with the index's shape.
Tensor filled(double value, DType dtype, const Tensor& index) {
  const Tensor one = scalar(value, dtype);
  return index.rank() == 0 ? one : one.view(Shape(index.shape().size(), 1)).expand(index.shape());
}

Tensor gathered(const Tensor& dout, int dim, const Tensor& index, const Shape& src_shape) {
  if (index.elements() == 0) return Tensor::zeros(src_shape, dout.dtype(), dout.device());
  return detail::padded(gather(dout, dim, index), src_shape);
}

void check_src_shape(const Tensor& index, const Shape& src_shape) {
  if (index.elements() == 0) return;
  QUIRE_CHECK(src_shape.size() == index.shape().size(), "src_shape: rank is ",
              static_cast<int>(src_shape.size()), ", but index has rank ", index.rank());
  for (int d = 0; d < index.rank(); ++d) {
    const std::int64_t size = src_shape[static_cast<std::size_t>(d)];
    QUIRE_CHECK(index.size(d) <= size, "index: size is ", index.size(d), " at dim ", d,
                ", but src_shape has only ", size, " there");
  }
}

}  // namespace

Tensor scatter(const Tensor& self, int dim, const Tensor& index, const Tensor& src) {
  return detail::scatter_new(self,
                             {.dim = dim, .index = index, .src = src, .combine = Combine::kAssign});
}

Tensor scatter(const Tensor& self, int dim, const Tensor& index, double value) {
  return scatter(self, dim, index, filled(value, self.dtype(), index));
}

void scatter_(Tensor& self, int dim, const Tensor& index, const Tensor& src) {
  detail::scatter_in_place(self,
                           {.dim = dim, .index = index, .src = src, .combine = Combine::kAssign});
}

void scatter_(Tensor& self, int dim, const Tensor& index, double value) {
  scatter_(self, dim, index, filled(value, self.dtype(), index));
}

void scatter_out(Tensor& out, const Tensor& self, int dim, const Tensor& index, const Tensor& src) {
  detail::scatter_into(out, self,
                       {.dim = dim, .index = index, .src = src, .combine = Combine::kAssign});
}

ScatterGrads scatter_backward(const Tensor& dout, int dim, const Tensor& index,
                              const Shape& src_shape) {
  detail::check_floating(dout, "dout");
  check_src_shape(index, src_shape);
  return {scatter(dout, dim, index, 0.0), gathered(dout, dim, index, src_shape)};
}

Tensor scatter_add(const Tensor& self, int dim, const Tensor& index, const Tensor& src) {
  return detail::scatter_new(self,
                             {.dim = dim, .index = index, .src = src, .combine = Combine::kSum});
}

void scatter_add_(Tensor& self, int dim, const Tensor& index, const Tensor& src) {
  detail::scatter_in_place(self,
                           {.dim = dim, .index = index, .src = src, .combine = Combine::kSum});
}

void scatter_add_out(Tensor& out, const Tensor& self, int dim, const Tensor& index,
                     const Tensor& src) {
  detail::scatter_into(out, self,
                       {.dim = dim, .index = index, .src = src, .combine = Combine::kSum});
}

ScatterGrads scatter_add_backward(const Tensor& dout, int dim, const Tensor& index,
                                  const Shape& src_shape) {
  detail::check_floating(dout, "dout");
  check_src_shape(index, src_shape);
  return {dout.to(dout.dtype()), gathered(dout, dim, index, src_shape)};
}

}  // namespace quire

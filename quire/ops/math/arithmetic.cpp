#include "quire/ops/math/arithmetic.h"

#include "quire/ops/math/arithmetic_kernel.h"
#include "quire/ops/math/broadcast.h"
#include "quire/ops/math/reduce.h"

namespace quire {
namespace {

using kernel::Pointwise;

// Neighbouring dimensions that all three walk as one become one: a whole row-major tensor is one
// run.
void join_dims(kernel::Arithmetic& args) {
  auto &size = args.size, &a = args.a_stride, &b = args.b_stride;
  std::size_t kept = 0;
  for (std::size_t d = 0; d < size.size(); ++d) {
    if (size[d] == 1) continue;
    if (kept > 0 && a[kept - 1] == a[d] * size[d] && b[kept - 1] == b[d] * size[d]) {
      size[kept - 1] *= size[d];
    } else {
      size[kept] = size[d];
      ++kept;
    }
    a[kept - 1] = a[d];
    b[kept - 1] = b[d];
  }
  size.resize(kept);
  a.resize(kept);
  b.resize(kept);
  if (kept == 0) size.push_back(1), a.push_back(0), b.push_back(0);
}

Tensor compute(Pointwise op, const Tensor& a, const Tensor& b, Shape shape, double number = 0) {
  const Tensor wide_a = a.expand(shape), wide_b = b.expand(shape);
  Tensor out = Tensor::empty(std::move(shape), a.dtype(), a.device());
  kernel::Arithmetic args{.op = op,
                          .dtype = a.dtype(),
                          .out = out.mutable_data<void>(),
                          .a = wide_a.data<void>(),
                          .b = wide_b.data<void>(),
                          .number = number,
                          .size = out.shape(),
                          .a_stride = wide_a.strides(),
                          .b_stride = wide_b.strides()};
  if (out.elements() == 0) return out;
  join_dims(args);
  kernel::arithmetic_cpu(args);
  return out;
}

Tensor two(std::string_view name, Pointwise op, const Tensor& a, const Tensor& b) {
  check_floating(name, "a", a);
  check_same_dtype(name, "a", a, "b", b);
  return compute(op, a, b, broadcast_shape(name, a.shape(), b.shape()));
}

Tensor one(std::string_view name, Pointwise op, const Tensor& a, double number = 0) {
  check_floating(name, "a", a);
  return compute(op, a, a, a.shape(), number);
}

}  // namespace

Tensor add(const Tensor& a, const Tensor& b) { return two("add", Pointwise::kAdd, a, b); }
Tensor sub(const Tensor& a, const Tensor& b) { return two("sub", Pointwise::kSub, a, b); }
Tensor mul(const Tensor& a, const Tensor& b) { return two("mul", Pointwise::kMul, a, b); }
Tensor div(const Tensor& a, const Tensor& b) { return two("div", Pointwise::kDiv, a, b); }
Tensor add(const Tensor& a, double b) { return one("add", Pointwise::kAddNumber, a, b); }
Tensor mul(const Tensor& a, double b) { return one("mul", Pointwise::kMulNumber, a, b); }
Tensor neg(const Tensor& a) { return one("neg", Pointwise::kNeg, a); }
Tensor exp(const Tensor& a) { return one("exp", Pointwise::kExp, a); }

Tensor clamp_min(const Tensor& a, double min) {
  return one("clamp_min", Pointwise::kClampMin, a, min);
}

DivGradients div_backward(const Tensor& dout, const Tensor& a, const Tensor& b) {
  check_floating("div_backward", "a", a);
  check_same_dtype("div_backward", "a", a, "b", b);
  check_same_dtype("div_backward", "a", a, "dout", dout);
  const Shape shape = broadcast_shape("div_backward", a.shape(), b.shape());
  check_same_shape("div_backward", "dout", dout, "a/b", a.expand(shape));
  const Tensor slope = compute(Pointwise::kDivBackwardB, a, b, shape);
  return {sum_to(div(dout, b), a.shape()), sum_to(mul(dout, slope), b.shape())};
}

Tensor exp_backward(const Tensor& dout, const Tensor& out) {
  check_same_shape("exp_backward", "dout", dout, "out", out);
  return two("exp_backward", Pointwise::kMul, dout, out);
}

Tensor clamp_min_backward(const Tensor& dout, const Tensor& a, double min) {
  check_floating("clamp_min_backward", "a", a);
  check_same_dtype("clamp_min_backward", "dout", dout, "a", a);
  check_same_shape("clamp_min_backward", "dout", dout, "a", a);
  return compute(Pointwise::kWhereAtLeast, dout, a, a.shape(), min);
}

Tensor full(Shape shape, double value, DType dtype) {
  QUIRE_CHECK(is_floating(dtype), "full: dtype is ", to_string(dtype),
              ", expected f64, f32, bf16 or f16");
  const Tensor like = Tensor::zeros({}, dtype).expand(shape);
  return compute(Pointwise::kFill, like, like, std::move(shape), value);
}

}  // namespace quire

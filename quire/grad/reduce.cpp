#include "quire/ops/math/reduce.h"

#include <numeric>

#include "quire/grad/math.h"
#include "quire/grad/record.h"
#include "quire/grad/views.h"

namespace quire::grad {
namespace {

std::vector<int> all_dims(const Var& x) {
  std::vector<int> dims(static_cast<std::size_t>(x.value().rank()));
  std::iota(dims.begin(), dims.end(), 0);
  return dims;
}

/// x's shape with 1 where it was reduced: what expands back to x.
Shape kept_shape(const Var& x, const std::vector<int>& dims) {
  Shape shape = x.shape();
  for (const int dim : dims) {
    if (!shape.empty()) shape[static_cast<std::size_t>(dim < 0 ? dim + x.value().rank() : dim)] = 1;
  }
  return shape;
}

Var spread(const Var& dout, const Shape& kept, const Shape& shape) {
  return expand(view(contiguous(dout), kept), shape);
}

}  // namespace

Var sum(const Var& x, const std::vector<int>& dims, Axis axis) {
  Tensor out = quire::sum(x.value(), dims, axis);
  if (!recording(x)) return Var(std::move(out));
  return record("sum", std::move(out), {x},
                [kept = kept_shape(x, dims), shape = x.shape()](const Var& dout) {
                  return Vars{spread(dout, kept, shape)};
                });
}
Var sum(const Var& x) { return sum(x, all_dims(x)); }

Var mean(const Var& x, const std::vector<int>& dims, Axis axis) {
  Tensor out = quire::mean(x.value(), dims, axis);
  if (!recording(x)) return Var(std::move(out));
  const std::int64_t count = out.elements() == 0 ? 1 : x.value().elements() / out.elements();
  const double share = 1 / static_cast<double>(count);
  return record("mean", std::move(out), {x},
                [kept = kept_shape(x, dims), shape = x.shape(), share](const Var& dout) {
                  return Vars{spread(mul(dout, share), kept, shape)};
                });
}
Var mean(const Var& x) { return mean(x, all_dims(x)); }

Var norm(const Var& x, int dim, Axis axis) {
  Tensor out = quire::norm(x.value(), dim, axis);
  if (!recording(x)) return Var(std::move(out));
  return record_once(
      "norm", out, {x},
      [x = Saved("norm", x.value()), out = Saved("norm", out), dim](const Tensor& dout) {
        return Tensors{norm_backward(dout, x.tensor(), out.tensor(), dim)};
      });
}

Var sum_to(const Var& x, const Shape& shape) {
  Tensor out = quire::sum_to(x.value(), shape);
  if (!recording(x)) return Var(std::move(out));
  return record("sum_to", std::move(out), {x},
                [shape = x.shape()](const Var& dout) { return Vars{expand(dout, shape)}; });
}

MaxVar max(const Var& x, int dim, Axis axis) {
  MaxResult out = quire::max(x.value(), dim, axis);
  if (!recording(x)) return {Var(std::move(out.values)), std::move(out.index)};
  Var values =
      record_once("max", std::move(out.values), {x},
                  [index = Saved("max", out.index), shape = x.shape(), dim](const Tensor& dout) {
                    return Tensors{max_backward(dout, index.tensor(), shape, dim)};
                  });
  return {std::move(values), std::move(out.index)};
}

}  // namespace quire::grad

#include "quire/grad/views.h"

#include <array>

#include "quire/grad/math.h"
#include "quire/grad/record.h"

namespace quire::grad {
namespace {

Var zeros_like(const Var& x, int dim, std::int64_t size) {
  Shape shape = x.shape();
  shape[static_cast<std::size_t>(dim < 0 ? dim + x.value().rank() : dim)] = size;
  return Var(Tensor::zeros(std::move(shape), x.dtype()));
}

}  // namespace

Var transpose(const Var& x, int a, int b) {
  Tensor out = x.value().transpose(a, b);
  if (!recording(x)) return Var(std::move(out));
  return record("transpose", std::move(out), {x},
                [a, b](const Var& dout) { return Vars{transpose(dout, a, b)}; });
}

Var expand(const Var& x, Shape shape) {
  Tensor out = x.value().expand(std::move(shape));
  if (!recording(x)) return Var(std::move(out));
  return record("expand", std::move(out), {x},
                [shape = x.shape()](const Var& dout) { return Vars{sum_to(dout, shape)}; });
}

Var view(const Var& x, Shape shape) {
  Tensor out = x.value().view(std::move(shape));
  if (!recording(x)) return Var(std::move(out));
  return record("view", std::move(out), {x}, [shape = x.shape()](const Var& dout) {
    return Vars{view(contiguous(dout), shape)};
  });
}

Var slice(const Var& x, int dim, std::int64_t begin, std::int64_t end) {
  Tensor out = x.value().slice(dim, begin, end);
  if (!recording(x)) return Var(std::move(out));
  return record(
      "slice", std::move(out), {x},
      [dim, begin, rest = x.value().size(dim) - end](const Var& dout) {
        const std::array parts = {zeros_like(dout, dim, begin), dout, zeros_like(dout, dim, rest)};
        return Vars{cat(parts, dim)};
      });
}

Var contiguous(const Var& x) {
  Tensor out = x.value().contiguous_copy();
  if (!recording(x)) return Var(std::move(out));
  return record("contiguous", std::move(out), {x}, [](const Var& dout) { return Vars{dout}; });
}

}  // namespace quire::grad

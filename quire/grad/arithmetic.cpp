#include "quire/ops/math/arithmetic.h"

#include "quire/grad/math.h"
#include "quire/grad/record.h"

namespace quire::grad {

Var add(const Var& a, const Var& b) {
  Tensor out = quire::add(a.value(), b.value());
  if (!recording(a, b)) return Var(std::move(out));
  return record("add", std::move(out), {a, b},
                [shape_a = a.shape(), shape_b = b.shape()](const Var& dout) {
                  return Vars{sum_to(dout, shape_a), sum_to(dout, shape_b)};
                });
}

Var sub(const Var& a, const Var& b) {
  Tensor out = quire::sub(a.value(), b.value());
  if (!recording(a, b)) return Var(std::move(out));
  return record("sub", std::move(out), {a, b},
                [shape_a = a.shape(), shape_b = b.shape()](const Var& dout) {
                  return Vars{sum_to(dout, shape_a), neg(sum_to(dout, shape_b))};
                });
}

Var mul(const Var& a, const Var& b) {
  Tensor out = quire::mul(a.value(), b.value());
  if (!recording(a, b)) return Var(std::move(out));
  return record("mul", std::move(out), {a, b},
                [a = Saved("mul", a), b = Saved("mul", b)](const Var& dout) {
                  Vars gradients(2);
                  if (a.var().needs_gradient())
                    gradients[0] = sum_to(mul(dout, b.var()), a.var().shape());
                  if (b.var().needs_gradient())
                    gradients[1] = sum_to(mul(dout, a.var()), b.var().shape());
                  return gradients;
                });
}

Var div(const Var& a, const Var& b) {
  Tensor out = quire::div(a.value(), b.value());
  if (!recording(a, b)) return Var(std::move(out));
  return record_once(
      "div", std::move(out), {a, b},
      [a = Saved("div", a.value()), b = Saved("div", b.value())](const Tensor& dout) {
        const DivGradients both = div_backward(dout, a.tensor(), b.tensor());
        return Tensors{both.da, both.db};
      });
}

Var add(const Var& a, double b) {
  Tensor out = quire::add(a.value(), b);
  if (!recording(a)) return Var(std::move(out));
  return record("add", std::move(out), {a}, [](const Var& dout) { return Vars{dout}; });
}

Var mul(const Var& a, double b) {
  Tensor out = quire::mul(a.value(), b);
  if (!recording(a)) return Var(std::move(out));
  return record("mul", std::move(out), {a}, [b](const Var& dout) { return Vars{mul(dout, b)}; });
}

Var neg(const Var& a) {
  Tensor out = quire::neg(a.value());
  if (!recording(a)) return Var(std::move(out));
  return record("neg", std::move(out), {a}, [](const Var& dout) { return Vars{neg(dout)}; });
}

Var exp(const Var& a) {
  Tensor out = quire::exp(a.value());
  if (!recording(a)) return Var(std::move(out));
  return record_once("exp", out, {a}, [out = Saved("exp", out)](const Tensor& dout) {
    return Tensors{exp_backward(dout, out.tensor())};
  });
}

Var clamp_min(const Var& a, double min) {
  Tensor out = quire::clamp_min(a.value(), min);
  if (!recording(a)) return Var(std::move(out));
  return record_once("clamp_min", std::move(out), {a},
                     [a = Saved("clamp_min", a.value()), min](const Tensor& dout) {
                       return Tensors{clamp_min_backward(dout, a.tensor(), min)};
                     });
}

}  // namespace quire::grad

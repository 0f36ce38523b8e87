// A router and eight experts learn a mixture of eight known maps by plain gradient descent, and get
// below a dense layer of equal active size: the dense one must serve all eight with one map.

#include <cstdio>
#include <vector>

#include "quire/grad/math.h"
#include "quire/grad/matmul.h"
#include "quire/grad/tape.h"
#include "quire/nn/moe.h"
#include "quire/ops/math/arithmetic.h"
#include "quire/ops/matmul/dense.h"

using namespace quire;
using grad::Var;

namespace {
constexpr std::int64_t kTokens = 512, kWidth = 8, kHidden = 8, kExperts = 8, kChoices = 2;

Tensor normal(Shape shape, float deviation, Rng& rng) {
  Tensor out = Tensor::empty(std::move(shape), DType::kF32);
  for (std::int64_t i = 0; i < out.elements(); ++i)
    out.mutable_data<float>()[i] = deviation * rng.normal();
  return out;
}

double number(const Var& x) { return *x.value().to(DType::kF64).data<double>(); }
Var loss_of(const Var& out, const Tensor& target) {
  const Var error = grad::sub(out, Var(target));
  return grad::mean(grad::mul(error, error));
}
void descend(Tensor& weight, const Var& var) { weight = add(weight, mul(var.gradient(), -0.5)); }
}  // namespace

int main() {
  Rng rng(1);
  // Token n is of kind n % 8: near that kind's centre, with a target that its map gives.
  Tensor x = normal({kTokens, kWidth}, 0.5f, rng), y = Tensor::empty(x.shape(), DType::kF32);
  const Tensor maps = normal({kExperts, kWidth, kWidth}, 0.35f, rng);
  for (std::int64_t n = 0; n < kTokens; ++n) {
    const std::int64_t kind = n % kExperts;
    x.mutable_data<float>()[n * kWidth + kind] += 2;
    const Tensor map = maps.slice(0, kind, kind + 1).view({kWidth, kWidth});
    const Tensor row = matmul(x.slice(0, n, n + 1), map);
    for (std::int64_t d = 0; d < kWidth; ++d)
      y.mutable_data<float>()[n * kWidth + d] = row.data<float>()[d];
  }
  const nn::MoESpec spec{.routing = {.C = kChoices}, .activation = {ActivationKind::kGelu}};
  nn::MoE<Tensor> layer =
      nn::moe_init({kExperts, kWidth, kHidden, 0, ActivationKind::kGelu}, 0.4, rng);
  Tensor up = normal({kWidth, kChoices * kHidden}, 0.4f, rng),
         down = normal({kChoices * kHidden, kWidth}, 0.4f, rng);
  double sparse = 0, dense = 0;
  std::vector<int> load(kExperts);
  for (int step = 0; step <= 1000; ++step) {
    const nn::MoE<Var> vars = nn::trained(layer);
    const auto out = nn::moe(Var(x), vars, spec);
    const Var loss = loss_of(out.out_ND, y);
    const Var balance = grad::balance_loss(out.logits_NE, out.experts_NC);
    grad::backward(grad::add(loss, grad::mul(balance, 1e-2)));
    descend(layer.router_DE, vars.router_DE);
    descend(layer.up_EDF, vars.up_EDF);
    descend(layer.down_EFD, vars.down_EFD);
    const Var a(up, grad::Needs::kGradient), b(down, grad::Needs::kGradient);
    const Var hidden = grad::activate(grad::matmul(Var(x), a), spec.activation);
    const Var other = loss_of(grad::matmul(hidden, b), y);
    grad::backward(other);
    descend(up, a);
    descend(down, b);
    sparse = number(loss), dense = number(other);
    if (step % 250 == 0) std::printf("step %4d  experts %.4f  dense %.4f\n", step, sparse, dense);
    load.assign(kExperts, 0);
    for (std::int64_t i = 0; i < kTokens * kChoices; ++i)
      ++load[static_cast<std::size_t>(out.experts_NC.data<std::int64_t>()[i])];
  }
  for (std::size_t e = 0; e < load.size(); ++e) std::printf("expert %zu: %d choices\n", e, load[e]);
  return sparse < dense ? 0 : 1;
}

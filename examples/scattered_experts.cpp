// The four modes of scattered_experts: where rows come from and where they go. Three tokens, each
// with two of three experts; expert e multiplies by 10^e.

#include "quire/ops/moe/scattered_experts.h"

#include <cstdio>
#include <optional>
#include <span>
#include <vector>

using namespace quire;

namespace {

Tensor numbers(const std::vector<float>& values, Shape shape) {
  return Tensor::of(std::span<const float>(values), std::move(shape));
}

void print(const char* what, const Tensor& x) {
  std::printf("%-44s", what);
  for (std::int64_t i = 0; i < x.elements(); ++i)
    std::printf(" %6.1f", static_cast<double>(x.data<float>()[i]));
  std::printf("\n");
}

}  // namespace

int main() {
  constexpr RowOrder kScattered = RowOrder::kScattered, kGrouped = RowOrder::kGrouped;
  const std::vector<std::int64_t> chosen{0, 2, 2, 1, 0, 1};
  const Tensor experts_NC = Tensor::of(std::span<const std::int64_t>(chosen), {3, 2});
  const ExpertOrder order = expert_order(experts_NC, 3);
  const ExpertLayer layer{numbers({1, 10, 100}, {3, 1, 1}), std::nullopt};
  const Tensor x = numbers({1, 2, 3}, {3, 1});
  const Tensor gates_NC = numbers({.5, .5, .25, .75, 1, 0}, {3, 2});

  const Tensor up = scattered_experts(x, layer, order, {kScattered, kGrouped, 2});
  print("tokens to groups (up), by expert", up);
  const Tensor inner = scattered_experts(up, layer, order, {kGrouped, kGrouped, 1});
  print("groups to groups (inner)", inner);
  const Tensor down = scattered_experts(up, layer, order, {kGrouped, kScattered, 1}, gates_NC);
  print("groups to tokens (down), gated", down);
  const Tensor across = scattered_experts(x, layer, order, {kScattered, kScattered, 2}, gates_NC);
  print("tokens to tokens (mixture of attention)", across);
  print("the same without gates, a row a choice",
        scattered_experts(x, layer, order, {kScattered, kScattered, 2}));

  const Tensor dout = numbers({1, -1, 2}, {3, 1});
  const ScatteredExpertsGradients g =
      scattered_experts_backward(dout, x, layer, order, {kScattered, kScattered, 2}, gates_NC);
  print("gradient of the tokens", g.dx);
  print("gradient of the experts", g.dweight_EDF);
  print("gradient of the gates", g.dgates_NC);
  // Token 0: (0.5 · 1 + 0.5 · 100) · 1.
  return across.data<float>()[0] == 50.5f && g.dx.data<float>()[0] == 50.5f ? 0 : 1;
}

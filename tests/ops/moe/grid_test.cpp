// The sizes that ScatterMoE and xma test, with random gradients and the gates' among them.

#include <gtest/gtest.h>

#include <algorithm>

#include "quire/ops/moe/expert_mlp.h"
#include "tests/ops/moe/moe_case.h"

namespace quire {
namespace {

using test::expect_close;
using test::random_tensor;
using test::values;

struct Layer {
  Tensor x, gates, dout, w1, w2, experts;
  ExpertOrder order;
  ExpertMlp mlp;

  Layer(std::int64_t T, std::int64_t C, std::int64_t E, std::int64_t D, std::int64_t F,
        ActivationKind kind, DType dtype)
      : x(random_tensor({T, D}, 1, dtype)),
        gates(random_tensor({T, C}, 2, dtype)),
        dout(random_tensor({T, D}, 3, dtype)),
        w1(uniform({E, D, takes_pairs(kind) ? 2 * F : F}, D, 4).to(dtype)),
        w2(uniform({E, F, D}, F, 5).to(dtype)),
        experts(test::random_experts(T, C, E, 6)),
        order(expert_order(experts, E)),
        mlp{{w1, std::nullopt}, {w2, std::nullopt}, {kind, PairLayout::kHalves}} {}

  // Of variance 1 / inputs, as the layers of both are drawn; cheaper than normal numbers.
  static Tensor uniform(Shape shape, std::int64_t inputs, std::uint64_t seed) {
    Tensor out = Tensor::empty(std::move(shape), DType::kF32);
    float* to = out.mutable_data<float>();
    const float scale = std::sqrt(12.0f / static_cast<float>(inputs)) / 4294967296.0f;
    std::uint64_t state = seed;
    for (std::int64_t i = 0; i < out.elements(); ++i) {
      state = state * 6364136223846793005u + 1442695040888963407u;
      to[i] = scale * static_cast<float>(static_cast<std::int32_t>(state >> 32));
    }
    return out;
  }
};

ref::Experts<double> as_reference(const std::vector<double>& x, const Tensor& w,
                                  const std::vector<std::int64_t>& experts) {
  ref::Experts<double> out{};
  out.D = static_cast<std::size_t>(w.size(1));
  out.F = static_cast<std::size_t>(w.size(2));
  out.expert = experts;
  out.x = x;
  out.w = values(w);
  return out;
}

TEST(MoeGrid, MOE_05_ScatterMoesSizesWithTheGatesGradient) {
  const ExpertActivation gelu{ActivationKind::kGelu, PairLayout::kHalves};
  for (const std::int64_t T : {1, 256, 512}) {
    for (const std::int64_t D : {100, 128, 256, 512, 600}) {
      for (const std::int64_t C : {2, 3, 4}) {
        const Layer l(T, C, 8, D, 96, ActivationKind::kGelu, DType::kF32);
        const std::string what =
            "T " + std::to_string(T) + ", D " + std::to_string(D) + ", C " + std::to_string(C);
        auto up = as_reference(values(l.x), l.w1, test::integers(l.experts));
        up.fan = static_cast<std::size_t>(C);
        const Tensor pre = test::tensor_of(up.rows(), {T * C, 96});
        auto down = as_reference(values(activate(pre, gelu)), l.w2, up.expert);
        down.choices = static_cast<std::size_t>(C);
        down.gates = values(l.gates);
        expect_close(values(expert_mlp(l.x, l.mlp, l.order, l.gates).out_ND), down.out(), what,
                     1e-4);
        const auto lower = down.gradients(values(l.dout));
        const Tensor dhidden = test::tensor_of(lower.dx, {T * C, 96});
        const auto upper = up.gradients(values(activate_backward(dhidden, pre, gelu)));
        const auto found = expert_mlp_backward(l.dout, l.x, l.mlp, l.order, l.gates);
        expect_close(values(found.dx_ND), upper.dx, what + " dx", 1e-4);
        expect_close(values(found.dup), upper.dw, what + " dW1", 1e-4);
        expect_close(values(found.ddown), lower.dw, what + " dW2", 1e-4);
        expect_close(values(found.dgates_NC), lower.dgates, what + " dgates", 1e-4);
      }
    }
  }
}

// out[j] += Σ_i x[i] · w[i, j], or with the matrix turned.
std::vector<double> times(const std::vector<double>& x, const Tensor& w, bool turned) {
  const auto rows = static_cast<std::size_t>(w.size(1)),
             columns = static_cast<std::size_t>(w.size(2));
  const float* at = w.data<float>();
  std::vector<double> out(turned ? rows : columns);
  for (std::size_t i = 0; i < rows; ++i, at += columns) {
    double sum = 0;
    for (std::size_t j = 0; j < columns; ++j) {
      if (turned) {
        sum += x[j] * static_cast<double>(at[j]);
      } else {
        out[j] += x[i] * static_cast<double>(at[j]);
      }
    }
    if (turned) out[i] = sum;
  }
  return out;
}

// One token, computed in f64 from the same weights: its y, dx and dgates depend on no other token.
void expect_token(const Layer& l, std::int64_t n, const Tensor& out,
                  const ExpertMlpGradients& found, double atol) {
  const std::int64_t C = l.gates.size(1);
  const std::vector<std::int64_t> experts = test::integers(l.experts);
  const std::vector<double> x = values(l.x.slice(0, n, n + 1)),
                            dy = values(l.dout.slice(0, n, n + 1)),
                            gates = values(l.gates.slice(0, n, n + 1));
  std::vector<double> y(x.size()), dx(x.size()), dgates(gates.size());
  for (std::size_t c = 0; c < gates.size(); ++c) {
    const std::int64_t e = experts[static_cast<std::size_t>(n * C) + c];
    const Tensor w1 = l.w1.slice(0, e, e + 1).to(DType::kF32),
                 w2 = l.w2.slice(0, e, e + 1).to(DType::kF32);
    const Tensor pre = test::tensor_of(times(x, w1, false), {1, w1.size(2)});
    const std::vector<double> row = times(values(activate(pre, l.mlp.activation)), w2, false);
    std::vector<double> drow(dy);
    for (double& value : drow) value *= gates[c];
    const Tensor dhidden = test::tensor_of(times(drow, w2, true), {1, w2.size(1)});
    const std::vector<double> part =
        times(values(activate_backward(dhidden, pre, l.mlp.activation)), w1, true);
    for (std::size_t d = 0; d < x.size(); ++d) {
      y[d] += gates[c] * row[d];
      dx[d] += part[d];
      dgates[c] += row[d] * dy[d];
    }
  }
  expect_close(values(out.slice(0, n, n + 1)), y, "y", atol);
  expect_close(values(found.dx_ND.slice(0, n, n + 1)), dx, "dx", atol);
  expect_close(values(found.dgates_NC.slice(0, n, n + 1)), dgates, "dgates", atol);
}

// A few elements of dW2: over all rows of an expert.
void expect_weights(const Layer& l, const ExpertMlpGradients& found, double atol) {
  const std::int64_t C = l.gates.size(1), D = l.x.size(1), F = l.w2.size(1);
  const Tensor pre =
      scattered_experts(l.x, l.mlp.up, l.order, {RowOrder::kScattered, RowOrder::kScattered, C});
  const std::vector<double> hidden = values(activate(pre, l.mlp.activation)), dy = values(l.dout),
                            gates = values(l.gates);
  const std::vector<std::int64_t> experts = test::integers(l.experts);
  const std::int64_t e = experts[0];
  const std::vector<double> dw = values(found.ddown.slice(0, e, e + 1));
  for (const auto& [f, d] :
       {std::pair<std::int64_t, std::int64_t>{0, 0}, {F / 2, D - 1}, {F - 1, 3}}) {
    double sum = 0;
    for (std::size_t s = 0; s < experts.size(); ++s) {
      if (experts[s] != e) continue;
      sum += hidden[s * static_cast<std::size_t>(F) + static_cast<std::size_t>(f)] * gates[s] *
             dy[s / static_cast<std::size_t>(C) * static_cast<std::size_t>(D) +
                static_cast<std::size_t>(d)];
    }
    EXPECT_NEAR(dw[static_cast<std::size_t>(f * D + d)], sum, atol * std::max(1.0, std::abs(sum)));
  }
}

void expect_xma(std::int64_t T, std::int64_t C, std::int64_t E, std::int64_t D, std::int64_t F,
                ActivationKind kind, DType dtype) {
  SCOPED_TRACE("T " + std::to_string(T) + ", C " + std::to_string(C) + ", E " + std::to_string(E));
  const Layer l(T, C, E, D, F, kind, dtype);
  const Tensor out = expert_mlp(l.x, l.mlp, l.order, l.gates).out_ND;
  const ExpertMlpGradients found = expert_mlp_backward(l.dout, l.x, l.mlp, l.order, l.gates);
  // f32 far below xma's 5.1e-3, 5.9e-3 and 3e-2; the short types at its 1.6e-2, 1.6e-2 and 7.9e-3.
  const bool wide = dtype == DType::kF32;
  for (const std::int64_t n : {T / 2, T - 1}) expect_token(l, n, out, found, wide ? 1e-4 : 1.6e-2);
  expect_weights(l, found, wide ? 1e-4 : 7.9e-3);
}

TEST(MoeGrid, MOE_06_XmasWideLayers) {
  for (const std::int64_t E : {2, 4, 6, 8})
    for (const std::int64_t C : {2, 4})
      expect_xma(7, C, E, 2048, 8192, C == 2 ? ActivationKind::kGelu : ActivationKind::kGlu,
                 E == 2 ? DType::kF32 : DType::kBF16);
}

TEST(MoeGrid, MOE_06_XmasNarrowLayersFromOneTokenTo8192) {
  for (const std::int64_t T : {1, 7, 100, 1000, 8192})
    expect_xma(T, 8, 128, 576, 256, ActivationKind::kGelu, DType::kF32);
  for (const DType dtype : {DType::kBF16, DType::kF16})
    expect_xma(7, 8, 128, 576, 256, ActivationKind::kGlu, dtype);
}

}  // namespace
}  // namespace quire

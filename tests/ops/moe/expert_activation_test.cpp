#include "quire/ops/moe/expert_activation.h"

#include <gtest/gtest.h>

#include "quire/base/error.h"
#include "quire/base/thread_pool.h"
#include "tests/support/gradient_check.h"

namespace quire {
namespace {

using test::expect_close;
using test::random_tensor;
using test::tensor_of;
using test::values;

constexpr ActivationKind kKinds[] = {
    ActivationKind::kSwiglu, ActivationKind::kSwigluClamped, ActivationKind::kGlu,
    ActivationKind::kGeglu,  ActivationKind::kReglu,         ActivationKind::kRelu,
    ActivationKind::kRelu2,  ActivationKind::kGelu,          ActivationKind::kSilu};

double sigmoid(double x) { return 1 / (1 + std::exp(-x)); }
double gelu(double x) {
  return 0.5 * x * (1 + std::tanh(std::sqrt(2 / M_PI) * (x + 0.044715 * x * x * x)));
}

// As the papers write them.
double expected(ActivationKind kind, double a, double b) {
  switch (kind) {
    case ActivationKind::kSwiglu:
      return a * sigmoid(a) * b;
    case ActivationKind::kSwigluClamped: {
      const double gate = std::min(a, 1.37), up = std::clamp(b, -1.37, 1.37);
      return gate * sigmoid(1.702 * gate) * (up + 1);
    }
    case ActivationKind::kGlu:
      return a * sigmoid(b);
    case ActivationKind::kGeglu:
      return gelu(a) * b;
    case ActivationKind::kReglu:
      return std::max(a, 0.0) * b;
    case ActivationKind::kRelu:
      return std::max(a, 0.0);
    case ActivationKind::kRelu2:
      return std::max(a, 0.0) * std::max(a, 0.0);
    case ActivationKind::kGelu:
      return gelu(a);
    case ActivationKind::kSilu:
      return a * sigmoid(a);
  }
  return 0;
}

ExpertActivation activation_of(ActivationKind kind, PairLayout layout) {
  return {kind, layout, 1.37, 1.702};
}

TEST(ExpertActivationTest, MOE_16_EveryKindInBothLayouts) {
  for (const ActivationKind kind : kKinds) {
    for (const PairLayout layout : {PairLayout::kHalves, PairLayout::kInterleaved}) {
      for (const std::int64_t F : {1, 16, 23, 64}) {
        const std::int64_t width = takes_pairs(kind) ? 2 * F : F;
        const Tensor pre = random_tensor({3, width}, 1);
        const std::vector<double> from = values(pre);
        std::vector<double> all;
        for (std::int64_t i = 0; i < 3 * F; ++i) {
          const std::int64_t m = i / F, f = i % F;
          const bool halves = layout == PairLayout::kHalves || !takes_pairs(kind);
          const std::int64_t at = m * width + (halves ? f : 2 * f);
          const double b =
              takes_pairs(kind) ? from[static_cast<std::size_t>(at + (halves ? F : 1))] : 0.0;
          all.push_back(expected(kind, from[static_cast<std::size_t>(at)], b));
        }
        const ExpertActivation activation = activation_of(kind, layout);
        const std::string what = std::to_string(static_cast<int>(kind));
        expect_close(values(activate(pre, activation)), all, what, 1e-14);
        expect_close(values(activate(pre.to(DType::kF32), activation)), all, what + " f32", 1e-6);
        expect_close(values(activate(pre.to(DType::kBF16), activation)), all, what + " bf16", 2e-2);
        expect_close(values(activate(pre.to(DType::kF16), activation)), all, what + " f16", 3e-3);
      }
    }
  }
}

TEST(ExpertActivationTest, MOE_16_SlopesOfEveryKind) {
  for (const ActivationKind kind : kKinds) {
    for (const PairLayout layout : {PairLayout::kHalves, PairLayout::kInterleaved}) {
      SCOPED_TRACE(static_cast<int>(kind));
      const ExpertActivation activation = activation_of(kind, layout);
      const Tensor pre = random_tensor({4, takes_pairs(kind) ? 38 : 19}, 2),
                   dout = random_tensor({4, 19}, 3);
      const Tensor dpre = activate_backward(dout, pre, activation);
      test::expect_gradients([&](const auto& in) { return activate(in[0], activation); }, {pre},
                             dout, {dpre});
      const Tensor narrow =
          activate_backward(dout.to(DType::kF32), pre.to(DType::kF32), activation);
      expect_close(values(narrow), values(dpre), "f32", 2e-6);
    }
  }
}

TEST(ExpertActivationTest, MOE_16_FarFromZeroNothingOverflows) {
  for (const ActivationKind kind : kKinds) {
    const Tensor pre = tensor_of({-90, 90, -1000, 1000, 1, 1, 1, 1}, {1, 8}, DType::kF32);
    const ExpertActivation activation = activation_of(kind, PairLayout::kHalves);
    const std::int64_t F = takes_pairs(kind) ? 4 : 8;
    const Tensor dout = random_tensor({1, F}, 1, DType::kF32);
    for (const double value : values(activate(pre, activation)))
      EXPECT_TRUE(std::isfinite(value)) << static_cast<int>(kind);
    for (const double value : values(activate_backward(dout, pre, activation)))
      EXPECT_TRUE(std::isfinite(value)) << static_cast<int>(kind);
  }
}

TEST(ExpertActivationTest, TheSameBitsWithAnyNumberOfThreads) {
  const Tensor pre = random_tensor({500, 130}, 4, DType::kF32);
  set_threads(1);
  const std::vector<double> one = values(activate(pre, {}));
  for (const int threads : {2, 7}) {
    set_threads(threads);
    EXPECT_EQ(values(activate(pre, {})), one);
  }
  set_threads(2);
}

TEST(ExpertActivationTest, Errors) {
  EXPECT_THROW((void)activate(Tensor::zeros({2, 3}, DType::kF32), {}), ArgumentError);
  EXPECT_THROW((void)activate(Tensor::zeros({2}, DType::kF32), {}), ArgumentError);
  EXPECT_THROW((void)activate(Tensor::zeros({2, 2}, DType::kI32), {}), ArgumentError);
  const Tensor pre = Tensor::zeros({2, 4}, DType::kF32);
  EXPECT_THROW((void)activate_backward(pre, pre, {}), ArgumentError);
  EXPECT_THROW((void)activate_backward(Tensor::zeros({2, 2}, DType::kF64), pre, {}), ArgumentError);
  EXPECT_EQ(activate(Tensor::zeros({0, 4}, DType::kF32), {}).shape(), (Shape{0, 2}));
}

}  // namespace
}  // namespace quire

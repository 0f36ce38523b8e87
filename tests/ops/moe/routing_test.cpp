#include "quire/ops/moe/routing.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include "quire/base/error.h"
#include "quire/base/thread_pool.h"
#include "tests/ops/moe/moe_case.h"

namespace quire {
namespace {

using test::expect_close;
using test::index_of;
using test::integers;
using test::random_tensor;
using test::tensor_of;
using test::values;
using testing::ElementsAre;
using testing::ThrowsMessage;

const Tensor kLogits = tensor_of({0, 2, 1, -1}, {1, 4});

double sigmoid(double x) { return 1 / (1 + std::exp(-x)); }

TEST(RoutingTest, MOE_10_TopKThenSoftmax) {
  const Routing found = route(kLogits, {.C = 2});
  EXPECT_THAT(integers(found.experts_NC), ElementsAre(1, 2));
  expect_close(values(found.gates_NC), {1 / (1 + std::exp(-1)), 1 / (1 + std::exp(1))}, "gates",
               1e-15);
  EXPECT_THAT(values(route(kLogits, {.C = 1}).gates_NC), ElementsAre(1));
}

TEST(RoutingTest, MOE_10_SoftmaxThenTopK) {
  const double sum = 1 + std::exp(2) + std::exp(1) + std::exp(-1);
  RoutingSpec spec{.C = 2, .score = GateScore::kSoftmaxTopK};
  const Routing plain = route(kLogits, spec);
  EXPECT_THAT(integers(plain.experts_NC), ElementsAre(1, 2));
  expect_close(values(plain.gates_NC), {std::exp(2) / sum, std::exp(1) / sum}, "plain", 1e-15);
  spec.renormalise = Renormalise::kYes;
  spec.scale = 3;
  // Renormalised it is the softmax over the chosen.
  std::vector<double> expected = values(route(kLogits, {.C = 2}).gates_NC);
  for (double& gate : expected) gate *= 3;
  expect_close(values(route(kLogits, spec).gates_NC), expected, "renormalised", 1e-15);
}

TEST(RoutingTest, MOE_10_SigmoidChoosesWithABiasThatTheGateDoesNotHave) {
  RoutingSpec spec{.C = 2, .score = GateScore::kSigmoid};
  const Tensor bias = tensor_of({0.5, 0, 0, 0.6}, {4}, DType::kF32);
  const Routing found = route(kLogits, spec, bias);
  EXPECT_THAT(integers(found.experts_NC), ElementsAre(0, 1));  // 1.0, then 0.88, 0.87, 0.73
  expect_close(values(found.gates_NC), {0.5, sigmoid(2)}, "gates", 1e-15);
  spec.renormalise = Renormalise::kYes;
  spec.scale = 2.5;
  const double sum = 0.5 + sigmoid(2);
  expect_close(values(route(kLogits, spec, bias).gates_NC), {1.25 / sum, 2.5 * sigmoid(2) / sum},
               "renormalised", 1e-15);
}

TEST(RoutingTest, MOE_10_LimitedToTheBestGroups) {
  // Groups of two: the best expert is in group 0, the two best together in group 2.
  const Tensor logits = tensor_of({5, -5, 1, 2, 3, 4, 0, 0}, {1, 8});
  RoutingSpec spec{.C = 2, .score = GateScore::kSoftmaxTopK, .groups = 4, .groups_kept = 1};
  EXPECT_THAT(integers(route(logits, spec).experts_NC), ElementsAre(0, 1));
  spec.group_score = GroupScore::kBestTwo;
  EXPECT_THAT(integers(route(logits, spec).experts_NC), ElementsAre(5, 4));
  spec.groups_kept = 2;
  spec.C = 4;
  EXPECT_THAT(integers(route(logits, spec).experts_NC), ElementsAre(5, 4, 3, 2));
}

TEST(RoutingTest, MOE_10_TiesGoToTheLowestIdAndNanIsLargest) {
  const Tensor same = Tensor::zeros({1, 5}, DType::kF32);
  EXPECT_THAT(integers(route(same, {.C = 3}).experts_NC), ElementsAre(0, 1, 2));
  RoutingSpec groups{.C = 2, .groups = 5, .groups_kept = 2};
  EXPECT_THAT(integers(route(same, groups).experts_NC), ElementsAre(0, 1));
  const Tensor odd = tensor_of({1, std::nan(""), 1, 3}, {1, 4}, DType::kF32);
  EXPECT_THAT(integers(route(odd, {.C = 3}).experts_NC), ElementsAre(1, 3, 0));
}

TEST(RoutingTest, MOE_10_EqualsAStableSort) {
  const Tensor logits = random_tensor({300, 19}, 1, DType::kBF16);  // bf16 has ties
  const std::vector<double> all = values(logits);
  for (const int threads : {1, 2, 7}) {
    set_threads(threads);
    const Routing found = route(logits, {.C = 19});
    EXPECT_EQ(found.gates_NC.dtype(), DType::kBF16);
    for (std::size_t n = 0; n < 300; ++n) {
      std::vector<std::int64_t> order(19);
      for (std::size_t e = 0; e < 19; ++e) order[e] = static_cast<std::int64_t>(e);
      std::stable_sort(order.begin(), order.end(), [&](std::int64_t a, std::int64_t b) {
        return all[n * 19 + static_cast<std::size_t>(a)] >
               all[n * 19 + static_cast<std::size_t>(b)];
      });
      const std::vector<std::int64_t> row = integers(found.experts_NC.slice(
          0, static_cast<std::int64_t>(n), static_cast<std::int64_t>(n) + 1));
      EXPECT_EQ(row, order) << n;
    }
  }
  set_threads(2);
}

TEST(RoutingTest, MOE_10_TheGateLogitsHaveTheirGradient) {
  const Tensor logits = random_tensor({6, 8}, 2), dgates = random_tensor({6, 3}, 3);
  const Tensor bias = random_tensor({8}, 4);
  for (const GateScore score :
       {GateScore::kTopKSoftmax, GateScore::kSoftmaxTopK, GateScore::kSigmoid}) {
    for (const Renormalise renormalise : {Renormalise::kNo, Renormalise::kYes}) {
      for (const std::int64_t kept : {2, 4}) {
        const RoutingSpec spec{.C = 3,
                               .score = score,
                               .renormalise = renormalise,
                               .scale = 1.5,
                               .groups = 4,
                               .groups_kept = kept};
        const auto with = score == GateScore::kSigmoid ? std::optional<Tensor>(bias) : std::nullopt;
        const Tensor dlogits =
            route_backward(dgates, logits, route(logits, spec, with).experts_NC, spec);
        test::expect_gradients([&](const auto& in) { return route(in[0], spec, with).gates_NC; },
                               {logits}, dgates, {dlogits});
        const Tensor narrow = route_backward(dgates.to(DType::kF32), logits.to(DType::kF32),
                                             route(logits, spec, with).experts_NC, spec);
        expect_close(values(narrow), values(dlogits), "f32", 1e-6);
      }
    }
  }
}

TEST(RoutingTest, Errors) {
  EXPECT_THAT([] { (void)route(kLogits, {.C = 5}); },
              ThrowsMessage<ArgumentError>("C is 5, expected 1 to 4, the experts to choose from"));
  EXPECT_THAT([] { (void)route(kLogits, {.C = 2, .groups = 3}); },
              ThrowsMessage<ArgumentError>("groups is 3, expected a divisor of E = 4"));
  EXPECT_THROW((void)route(kLogits, {.C = 2, .groups = 4, .groups_kept = 1}), ArgumentError);
  EXPECT_THROW((void)route(kLogits, {.C = 1, .groups = 2, .groups_kept = 3}), ArgumentError);
  EXPECT_THROW(
      (void)route(kLogits,
                  {.C = 1, .groups = 4, .groups_kept = 2, .group_score = GroupScore::kBestTwo}),
      ArgumentError);
  EXPECT_THROW((void)route(kLogits, {.C = 1}, Tensor::zeros({4}, DType::kF32)), ArgumentError);
  const RoutingSpec sigmoid_spec{.C = 1, .score = GateScore::kSigmoid};
  EXPECT_THROW((void)route(kLogits, sigmoid_spec, Tensor::zeros({3}, DType::kF32)), ArgumentError);
  EXPECT_THROW((void)route(Tensor::zeros({1, 0}, DType::kF32), {.C = 1}), ArgumentError);
  EXPECT_EQ(route(Tensor::zeros({0, 4}, DType::kF32), {}).gates_NC.shape(), (Shape{0, 2}));
  const Tensor dgates = random_tensor({1, 2}, 1);
  EXPECT_THAT(
      [&] {
        (void)route_backward(dgates, kLogits, index_of({0, 4}, {1, 2}), {});
      },
      ThrowsMessage<ArgumentError>("experts_NC[1] is 4, expected 0 to 3"));
  EXPECT_THROW((void)route_backward(dgates, kLogits, index_of({0, 1}, {1, 2}), {.C = 3}),
               ArgumentError);
}

}  // namespace
}  // namespace quire

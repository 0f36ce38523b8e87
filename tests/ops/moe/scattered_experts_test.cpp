#include "quire/ops/moe/scattered_experts.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <numeric>

#include "quire/base/error.h"
#include "quire/base/thread_pool.h"
#include "tests/ops/moe/moe_case.h"

namespace quire {
namespace {

using test::expect_close;
using test::index_of;
using test::kGrouped;
using test::kScattered;
using test::MoeCase;
using test::MoeSizes;
using test::random_tensor;
using test::tensor_of;
using test::values;
using testing::HasSubstr;
using testing::ThrowsMessage;

struct Mode {
  ScatterSpec spec;
  bool gates;
};

// (F,T), (T,F) with gates, (F,F) with and without, (T,T), and up with fan.
const Mode kModes[] = {{{kScattered, kGrouped, 2}, false},   {{kScattered, kGrouped, 1}, false},
                       {{kGrouped, kScattered, 1}, true},    {{kGrouped, kScattered, 1}, false},
                       {{kScattered, kScattered, 1}, true},  {{kScattered, kScattered, 2}, true},
                       {{kScattered, kScattered, 2}, false}, {{kGrouped, kGrouped, 1}, false}};

void expect_reference(const MoeCase& c, double tolerance, const std::string& what) {
  const ref::Experts<double> reference = c.reference<double>();
  expect_close(c.as_slots(c.out()), reference.out(), what + " out", tolerance);
  const bool grouped_dout = !c.gates && c.spec.out == kGrouped;
  const auto expected =
      reference.gradients(values(grouped_dout ? test::scattered_rows(c.dout, c.order) : c.dout));
  const ScatteredExpertsGradients found = c.gradients();
  const Tensor dx = c.spec.in == kGrouped ? test::scattered_rows(found.dx, c.order) : found.dx;
  expect_close(values(dx), expected.dx, what + " dx", tolerance);
  expect_close(values(found.dweight_EDF), expected.dw, what + " dweight", tolerance);
  if (c.layer.bias_EF) expect_close(values(found.dbias_EF), expected.dbias, what, tolerance);
  if (c.gates) expect_close(values(found.dgates_NC), expected.dgates, what + " dgates", tolerance);
}

TEST(ScatteredExperts, MOE_01_TheGoldenCase) {
  // Two layers with ReLU between; every number was computed by hand with PyTorch in f64.
  const Tensor x = tensor_of({1, 2, 3, -1, 0, 4}, {3, 2});
  std::vector<double> w1(12), w2(12);
  for (std::size_t i = 0; i < 12; ++i) {
    w1[i] = (static_cast<double>(i) - 5) / 10;
    w2[i] = (static_cast<double>(i) - 3) / 7;
  }
  const ExpertLayer up{tensor_of(w1, {3, 2, 2}), std::nullopt},
      down{tensor_of(w2, {3, 2, 2}), std::nullopt};
  const ExpertOrder order = expert_order(index_of({0, 2, 2, 1, 0, 1}, {3, 2}), 3);
  EXPECT_EQ(test::integers(order.slot_M()), (std::vector<std::int64_t>{0, 4, 3, 5, 1, 2}));
  EXPECT_EQ(test::integers(inclusive_ends(order)), (std::vector<std::int64_t>{2, 4, 6}));
  const Tensor gates = tensor_of({.75, .25, .6, .4, .5, .5}, {3, 2});
  const ScatterSpec rise{kScattered, kGrouped, 2}, fall{kGrouped, kScattered, 1};
  const Tensor a = scattered_experts(x, up, order, rise);
  std::vector<double> h = values(a), slope(h.size());
  for (std::size_t i = 0; i < h.size(); ++i) {
    slope[i] = h[i] > 0 ? 1 : 0;
    h[i] = std::max(h[i], 0.0);
  }
  const Tensor hidden = tensor_of(h, a.shape());
  expect_close(values(scattered_experts(hidden, down, order, fall, gates)),
               {0.632142857142857, 0.735714285714286, 0.531428571428571, 0.617142857142857, 0.2,
                0.285714285714286},
               "y", 1e-8);
  const Tensor dy = tensor_of({1, -1, 2, .5, -1, 3}, {3, 2});
  const auto lower = scattered_experts_backward(dy, hidden, down, order, fall, gates);
  expect_close(values(lower.dgates_NC),
               {0, -0.414285714285714, 2.285714285714286, 0, 0, 1.314285714285714}, "dgates", 1e-8);
  std::vector<double> da = values(lower.dx);
  for (std::size_t i = 0; i < da.size(); ++i) da[i] *= slope[i];
  const auto upper = scattered_experts_backward(tensor_of(da, a.shape()), x, up, order, rise);
  expect_close(values(upper.dx),
               {-0.025, -0.039285714285714, 0.951428571428571, 1.482857142857143,
                -0.035714285714286, 0.164285714285714},
               "dx", 1e-8);
  const std::vector<double> dw = values(upper.dweight_EDF);
  expect_close({dw.begin(), dw.begin() + 8},
               {0, 0, 0, 0, 0, 0, 1.428571428571429, 2.571428571428571}, "dW1", 1e-8);
}

TEST(ScatteredExperts, MOE_01_MOE_05_FourModesEqualTheLoopsWithEveryGradient) {
  std::uint64_t seed = 100;
  for (const Mode& mode : kModes) {
    for (const bool bias : {false, true}) {
      for (const bool holes : {false, true}) {
        const MoeSizes sizes{.bias = bias, .gates = mode.gates, .holes = holes};
        const std::string what = test::mode_name(mode.spec) + (bias ? " bias" : "");
        expect_reference(MoeCase(sizes, mode.spec, DType::kF64, seed), 1e-13, what + " f64");
        expect_reference(MoeCase(sizes, mode.spec, DType::kF32, seed), 2e-6, what + " f32");
        expect_reference(MoeCase(sizes, mode.spec, DType::kBF16, seed), 2e-2, what + " bf16");
        expect_reference(MoeCase(sizes, mode.spec, DType::kF16, seed), 2e-3, what + " f16");
        ++seed;
      }
    }
  }
}

TEST(ScatteredExperts, MOE_05_GradientsAreSlopes) {
  for (const Mode& mode : kModes) {
    SCOPED_TRACE(test::mode_name(mode.spec));
    const MoeSizes sizes{.N = 4, .D = 3, .F = 2, .bias = true, .gates = mode.gates};
    const MoeCase c(sizes, mode.spec, DType::kF64, 7);
    const auto found = c.gradients();
    std::vector<Tensor> at{c.x, c.layer.weight_EDF.dense_EDF(), *c.layer.bias_EF},
        slopes{found.dx, found.dweight_EDF, found.dbias_EF};
    if (mode.gates) {
      at.push_back(*c.gates);
      slopes.push_back(found.dgates_NC);
    }
    test::expect_gradients(
        [&](const std::vector<Tensor>& in) {
          const std::optional<Tensor> gates =
              in.size() > 3 ? std::optional<Tensor>(in[3]) : std::nullopt;
          return scattered_experts(in[0], {in[1], in[2]}, c.order, c.spec, gates);
        },
        at, c.dout, slopes);
  }
}

TEST(ScatteredExperts, MOE_07_BiasReachesEveryRowAndItsGradientEveryExpert) {
  const MoeSizes sizes{.N = 70, .C = 3, .E = 5, .D = 33, .F = 70, .bias = true, .gates = true};
  for (const ScatterSpec& spec :
       {ScatterSpec{kGrouped, kScattered, 1}, ScatterSpec{kScattered, kScattered, 3}})
    expect_reference(MoeCase(sizes, spec, DType::kF32, 3), 1e-5, test::mode_name(spec));
}

TEST(ScatteredExperts, MOE_02_WithoutMeaning) {
  const MoeCase up({}, {kScattered, kGrouped, 2}, DType::kF32, 1);
  const Tensor gates = random_tensor({7, 2}, 2, DType::kF32);
  EXPECT_THAT([&] { (void)scattered_experts(up.x, up.layer, up.order, up.spec, gates); },
              ThrowsMessage<ArgumentError>(HasSubstr("the rows stay grouped")));
  const MoeCase inner({}, {kGrouped, kGrouped, 1}, DType::kF32, 1);
  EXPECT_THAT(
      [&] {
        (void)scattered_experts(inner.x, inner.layer, inner.order, {kGrouped, kGrouped, 2});
      },
      ThrowsMessage<ArgumentError>("fan is 2, but grouped rows stand for one slot each"));
  EXPECT_THAT(
      [&] {
        (void)scattered_experts(up.x, up.layer, up.order, {kScattered, kGrouped, 1});
      },
      ThrowsMessage<ArgumentError>("x has shape [7, 5], expected [14, 5]"));
  EXPECT_THAT(
      [&] {
        (void)scattered_experts(up.x, up.layer, up.order, {kScattered, kScattered, 3});
      },
      ThrowsMessage<ArgumentError>("fan is 3, which does not divide the 14 slots"));
  EXPECT_THAT(
      [&] {
        (void)scattered_experts(up.x, up.layer, up.order, {kScattered, kScattered, 2},
                                random_tensor({6, 2}, 2, DType::kF32));
      },
      ThrowsMessage<ArgumentError>("gates_NC has shape [6, 2], but the order has 14 slots"));
  EXPECT_THAT([&] { (void)scattered_experts(up.x.to(DType::kF64), up.layer, up.order, up.spec); },
              ThrowsMessage<ArgumentError>("scattered_experts: x is f64, but weight_EDF is f32"));
  const ExpertOrder other = expert_order(up.experts_NC, 4);
  EXPECT_THAT([&] { (void)scattered_experts(up.x, up.layer, other, up.spec); },
              ThrowsMessage<ArgumentError>("weight_EDF: E is 3, but the order has E = 4"));
  EXPECT_THROW((void)scattered_experts_backward(up.x, up.x, up.layer, up.order, up.spec),
               ArgumentError);
  EXPECT_THROW((void)scattered_experts(up.x, {up.layer.weight_EDF, gates}, up.order, up.spec),
               ArgumentError);
}

TEST(ScatteredExperts, MOE_02_UngatedScatteredOutputWithSeveralChoices) {
  const MoeCase c({.N = 9, .C = 3, .E = 4}, {kScattered, kScattered, 3}, DType::kF64, 5);
  EXPECT_EQ(c.out().shape(), (Shape{27, 4}));
  expect_reference(c, 1e-13, "ungated");
}

TEST(ScatteredExperts, MOE_08_TwoBackwardsThroughOneForwardGiveTheSameBits) {
  for (const Mode& mode : kModes) {
    const MoeCase c({.N = 40, .C = 2, .E = 4, .D = 70, .F = 66, .gates = mode.gates}, mode.spec,
                    DType::kF32, 11);
    const std::vector<double> x = values(c.x), dout = values(c.dout);
    const Tensor out = c.out();
    const auto one = c.gradients(), two = c.gradients();
    EXPECT_EQ(values(one.dx), values(two.dx));
    EXPECT_EQ(values(one.dweight_EDF), values(two.dweight_EDF));
    if (mode.gates) {
      EXPECT_EQ(values(one.dgates_NC), values(two.dgates_NC));
    }
    EXPECT_EQ(values(c.x), x);
    EXPECT_EQ(values(c.dout), dout);
    EXPECT_EQ(values(c.out()), values(out));
  }
}

TEST(ScatteredExperts, MOE_14_TheSameBitsWithAnyNumberOfThreads) {
  for (const Mode& mode : kModes) {
    const MoeCase c(
        {.N = 300, .C = 2, .E = 5, .D = 140, .F = 130, .bias = true, .gates = mode.gates},
        mode.spec, DType::kF32, 12);
    set_threads(1);
    const Tensor out = c.out();
    const auto one = c.gradients();
    for (const int threads : {2, 7}) {
      set_threads(threads);
      EXPECT_EQ(values(c.out()), values(out)) << threads;
      const auto found = c.gradients();
      EXPECT_EQ(values(found.dx), values(one.dx)) << threads;
      EXPECT_EQ(values(found.dweight_EDF), values(one.dweight_EDF)) << threads;
      EXPECT_EQ(values(found.dbias_EF), values(one.dbias_EF)) << threads;
      if (mode.gates) {
        EXPECT_EQ(values(found.dgates_NC), values(one.dgates_NC)) << threads;
      }
    }
  }
  set_threads(2);
}

TEST(ScatteredExperts, MOE_14_TheOrderOfTheExpertsChangesNoBit) {
  const MoeSizes sizes{.N = 50, .C = 3, .E = 6, .D = 40, .F = 48, .gates = true};
  const MoeCase c(sizes, {kScattered, kScattered, 3}, DType::kF32, 13);
  std::vector<Tensor> turned;
  for (std::int64_t e = 5; e >= 0; --e)
    turned.push_back(c.layer.weight_EDF.dense_EDF().slice(0, e, e + 1));
  std::vector<double> weights;
  for (const Tensor& one : turned) {
    const std::vector<double> part = values(one);
    weights.insert(weights.end(), part.begin(), part.end());
  }
  std::vector<std::int64_t> experts = test::integers(c.experts_NC);
  for (std::int64_t& e : experts) e = 5 - e;
  const ExpertOrder order = expert_order(index_of(experts, {50, 3}), 6);
  const ExpertLayer layer{tensor_of(weights, {6, 40, 48}, DType::kF32), std::nullopt};
  EXPECT_EQ(values(scattered_experts(c.x, layer, order, c.spec, c.gates)), values(c.out()));
  const auto found = scattered_experts_backward(c.dout, c.x, layer, order, c.spec, c.gates);
  EXPECT_EQ(values(found.dx), values(c.gradients().dx));
}

TEST(ScatteredExperts, MOE_15_OneExpertTwiceInAToken) {
  const ExpertOrder order = expert_order(index_of({1, 1, 0, 1}, {2, 2}), 2);
  const Tensor x = tensor_of({1, 2}, {2, 1}), gates = tensor_of({.5, .25, 1, 2}, {2, 2});
  const ExpertLayer layer{tensor_of({10, 100}, {2, 1, 1}), std::nullopt};
  const ScatterSpec spec{kScattered, kScattered, 2};
  EXPECT_THAT(values(scattered_experts(x, layer, order, spec, gates)),
              testing::ElementsAre(75, 420));
  const auto g =
      scattered_experts_backward(tensor_of({1, 3}, {2, 1}), x, layer, order, spec, gates);
  EXPECT_THAT(values(g.dx), testing::ElementsAre(75, 630));
  EXPECT_THAT(values(g.dweight_EDF), testing::ElementsAre(6, 12.75));
  EXPECT_THAT(values(g.dgates_NC), testing::ElementsAre(100, 100, 60, 600));
}

TEST(ScatteredExperts, TransposedViewsOfTheWeightsGiveTheSameBits) {
  for (const DType dtype : {DType::kF64, DType::kF32, DType::kBF16, DType::kF16}) {
    for (const Mode& mode : kModes) {
      const MoeCase c({.N = 30, .C = 2, .E = 3, .D = 70, .F = 37, .gates = mode.gates}, mode.spec,
                      dtype, 14);
      const Tensor stored =
          c.layer.weight_EDF.dense_EDF().transpose(1, 2).contiguous_copy().transpose(1, 2);
      const ExpertLayer turned{stored, std::nullopt};
      EXPECT_EQ(values(scattered_experts(c.x, turned, c.order, c.spec, c.gates)), values(c.out()));
      const auto found = scattered_experts_backward(c.dout, c.x, turned, c.order, c.spec, c.gates);
      EXPECT_EQ(values(found.dx), values(c.gradients().dx));
      EXPECT_EQ(values(found.dweight_EDF), values(c.gradients().dweight_EDF));
    }
  }
}

TEST(ScatteredExperts, MOE_03_NothingAtAll) {
  const MoeCase c({.N = 0, .C = 2, .E = 3, .gates = true}, {kGrouped, kScattered, 1}, DType::kF32,
                  15);
  EXPECT_EQ(c.out().shape(), (Shape{0, 4}));
  for (const double value : values(c.gradients().dweight_EDF)) EXPECT_EQ(value, 0);
  const MoeCase one({.N = 5, .C = 2, .E = 1}, {kScattered, kGrouped, 2}, DType::kF64, 16);
  expect_reference(one, 1e-13, "E = 1");
}

}  // namespace
}  // namespace quire

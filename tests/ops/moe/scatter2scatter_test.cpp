#include "quire/ops/moe/scatter2scatter.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include "quire/base/error.h"
#include "quire/base/thread_pool.h"
#include "tests/ops/moe/moe_case.h"
#include "tests/ops/moe/packed_experts.h"

namespace quire {
namespace {

using test::expect_close;
using test::index_of;
using test::kGrouped;
using test::kScattered;
using test::random_tensor;
using test::tensor_of;
using test::values;
using testing::ElementsAre;
using testing::ThrowsMessage;

const ScatterSpec kSpecs[] = {{kScattered, kGrouped, 2},
                              {kGrouped, kScattered, 1},
                              {kScattered, kScattered, 2},
                              {kGrouped, kGrouped, 1}};

template <class T>
std::vector<T> reference(const test::MoeCase& c) {
  return c.reference<T>().rows();
}

std::vector<double> found(const test::MoeCase& c) {
  return c.as_slots(scatter2scatter(c.x, c.layer, c.order, c.spec));
}

TEST(Scatter2Scatter, MOE_03_ByHand) {
  const ExpertOrder order = expert_order(index_of({1, 0, -1, 1}, {2, 2}), 3);
  const ExpertLayer layer{tensor_of({1, 10, 100}, {3, 1, 1}), tensor_of({.25, .5, 0}, {3, 1})};
  const Tensor x = tensor_of({1, 2}, {2, 1});
  EXPECT_THAT(values(scatter2scatter(x, layer, order, {kScattered, kGrouped, 2})),
              ElementsAre(1.25, 10.5, 20.5));
  EXPECT_THAT(values(scatter2scatter(x, layer, order, {kScattered, kScattered, 2})),
              ElementsAre(10.5, 1.25, 0, 20.5));
}

TEST(Scatter2Scatter, MOE_22_NoWorseThanTwiceTheNaiveLoopInF32) {
  for (const ScatterSpec& spec : kSpecs) {
    for (const std::int64_t D : {1, 17, 128, 300}) {
      for (const std::int64_t F : {1, 16, 63, 64, 130}) {
        const test::MoeCase c({.N = 40, .E = 3, .D = D, .F = F}, spec, DType::kF32, 1);
        const std::vector<double> ours = found(c), truth = reference<double>(c);
        const std::vector<float> naive = reference<float>(c);
        double error = 0, yardstick = 0, largest = 0;
        for (std::size_t i = 0; i < ours.size(); ++i) {
          error = std::max(error, std::abs(ours[i] - truth[i]));
          yardstick = std::max(yardstick, std::abs(double{naive[i]} - truth[i]));
          largest = std::max(largest, std::abs(truth[i]));
        }
        EXPECT_LE(error, 2 * yardstick + 0x1p-24 * largest) << D << " " << F;
      }
    }
  }
}

TEST(Scatter2Scatter, MOE_04_OneToThreeHundredRowsAnExpert) {
  // Many experts within what would be one tile, and one that fills several.
  std::vector<std::int64_t> experts;
  std::int64_t e = 0;
  for (const std::int64_t count :
       {1, 2, 3, 4, 5, 6, 7, 11, 12, 13, 0, 31, 33, 64, 97, 191, 193, 300})
    experts.insert(experts.end(), static_cast<std::size_t>(count), e++);
  Rng rng(1);
  for (std::size_t i = experts.size(); i-- > 1;) std::swap(experts[i], experts[rng.below(i + 1)]);
  const auto N = static_cast<std::int64_t>(experts.size());
  const ExpertOrder order = expert_order(index_of(experts, {N, 1}), e);
  const Tensor x = random_tensor({N, 40}, 2, DType::kF32),
               w = random_tensor({e, 40, 70}, 3, DType::kF32);
  ref::Experts<double> reference{};
  reference.D = 40;
  reference.F = 70;
  reference.expert = experts;
  reference.x = values(x);
  reference.w = values(w);
  expect_close(values(scatter2scatter(x, {w, {}}, order, {kScattered, kScattered, 1})),
               reference.rows(), "sizes", 1e-6);
}

TEST(Scatter2Scatter, ARowsBitsDependOnNothingElse) {
  const test::MoeCase c({.N = 200, .E = 2, .D = 300, .F = 100}, {kScattered, kScattered, 2},
                        DType::kF32, 4);
  const std::vector<double> all = found(c);
  const std::vector<std::int64_t> experts = test::integers(c.experts_NC);
  for (const std::int64_t n : {0, 99, 199}) {
    const auto at = static_cast<std::size_t>(2 * n);
    const ExpertOrder one = expert_order(index_of({experts[at], experts[at + 1]}, {1, 2}), 2);
    const std::vector<double> alone =
        values(scatter2scatter(c.x.slice(0, n, n + 1), c.layer, one, c.spec));
    EXPECT_TRUE(std::equal(alone.begin(), alone.end(), all.begin() + 200 * n)) << n;
  }
}

TEST(Scatter2Scatter, ShortTypesRoundOnce) {
  for (const DType dtype : {DType::kBF16, DType::kF16}) {
    const test::MoeCase c({.N = 9, .D = 70, .F = 40, .bias = true}, kSpecs[0], dtype, 5);
    const ExpertLayer wide{c.layer.weight_EDF.dense_EDF().to(DType::kF32),
                           c.layer.bias_EF->to(DType::kF32)};
    EXPECT_EQ(values(scatter2scatter(c.x, c.layer, c.order, c.spec)),
              values(scatter2scatter(c.x.to(DType::kF32), wide, c.order, c.spec).to(dtype)));
  }
}

TEST(Scatter2Scatter, MOE_19_PackedWeightsAreTheirDenseValues) {
  for (const WeightType type : test::kWeightTypes) {
    SCOPED_TRACE(to_string(type));
    const test::PackedExperts packed = test::random_packed(type, 3, 160, 96, 6);
    const ExpertOrder order = expert_order(test::random_experts(30, 2, 3, 7, true), 3);
    for (const ScatterSpec& spec : kSpecs) {
      const std::int64_t rows = spec.in == kGrouped ? order.rows() : 60 / spec.fan;
      const Tensor x = random_tensor({rows, 160}, 8, DType::kF32),
                   back = random_tensor({rows, 96}, 9, DType::kF32);
      EXPECT_EQ(values(scatter2scatter(x, {packed.weights, {}}, order, spec)),
                values(scatter2scatter(x, {packed.dense_EDF, {}}, order, spec)));
      const ExpertWeights dense(packed.dense_EDF);
      EXPECT_EQ(values(scatter2scatter(back, {packed.weights.turned(), {}}, order, spec)),
                values(scatter2scatter(back, {dense.turned(), {}}, order, spec)));
    }
  }
}

TEST(Scatter2Scatter, MOE_20_NoRowIsCopiedIntoPlace) {
  const test::MoeCase c({.N = 256, .C = 2, .E = 8, .D = 256, .F = 32}, {kScattered, kGrouped, 2},
                        DType::kF32, 10);
  (void)scatter2scatter(c.x, c.layer, c.order, c.spec);
  const std::int64_t before = allocated_bytes();
  reset_peak_allocated_bytes();
  const Tensor out = scatter2scatter(c.x, c.layer, c.order, c.spec);
  // The grouped rows alone would be 512 KiB.
  EXPECT_LE(peak_allocated_bytes() - before, out.bytes() + 4096);
}

TEST(Scatter2Scatter, MOE_23_OffsetsBeyond31Bits) {
  // An expanded weight: 2^33 elements between the first and the last expert, one MiB of memory.
  Tensor memory = random_tensor({64, 64}, 11, DType::kF32);
  const std::int64_t E = (std::int64_t{1} << 33) / (64 * 64);
  const Tensor w = memory.view({1, 64, 64}).expand({E, 64, 64});
  const ExpertOrder order = expert_order(index_of({E - 1, 0, E / 2}, {3, 1}), E);
  const Tensor x = random_tensor({3, 64}, 12, DType::kF32);
  const ExpertOrder one = expert_order(index_of({0, 0, 0}, {3, 1}), 1);
  const ScatterSpec spec{kScattered, kScattered, 1};
  EXPECT_EQ(values(scatter2scatter(x, {w, {}}, order, spec)),
            values(scatter2scatter(x, {memory.view({1, 64, 64}), {}}, one, spec)));
}

TEST(Scatter2Scatter, Errors) {
  const test::MoeCase c({}, kSpecs[0], DType::kF32, 1);
  EXPECT_THAT(
      [&] {
        (void)scatter2scatter(c.x, c.layer, c.order, {kScattered, kGrouped, 1});
      },
      ThrowsMessage<ArgumentError>("x has shape [7, 5], expected [14, 5]"));
  EXPECT_THAT(
      [&] {
        (void)scatter2scatter(c.x, c.layer, c.order, {kGrouped, kGrouped, 2});
      },
      ThrowsMessage<ArgumentError>("fan is 2, but grouped rows stand for one slot each"));
  EXPECT_THROW((void)scatter2scatter(c.x, {c.layer.weight_EDF, Tensor::zeros({3, 5}, DType::kF32)},
                                     c.order, c.spec),
               ArgumentError);
  const test::PackedExperts packed = test::random_packed(WeightType::kQ8_0, 3, 32, 16, 6);
  EXPECT_THAT(
      [&] {
        (void)scatter2scatter(Tensor::zeros({7, 32}, DType::kF64), {packed.weights, {}}, c.order,
                              c.spec);
      },
      ThrowsMessage<ArgumentError>("x is f64; packed weights take f32, bf16 or f16"));
}

}  // namespace
}  // namespace quire

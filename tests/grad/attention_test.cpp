#include "quire/grad/attention.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <algorithm>
#include <cmath>
#include <limits>

#include "quire/base/error.h"
#include "quire/base/thread_pool.h"
#include "quire/grad/math.h"
#include "quire/grad/views.h"
#include "quire/ops/attention/attention.h"
#include "quire/ops/attention/attention_backward.h"
#include "tests/support/tape_check.h"

namespace quire::grad {
namespace {

using test::expect_close;
using test::expect_tape_gradients;
using test::random_tensor;
using test::tensor_of;
using test::values;
using testing::HasSubstr;
using testing::ThrowsMessage;

/// Sequences in pages: what a view needs beside the pool.
struct Batch {
  std::vector<std::int32_t> start;
  std::vector<std::int32_t> table;  // rows of W; empty: sequence b has page b
  std::vector<std::int64_t> length;

  Tensor start_J() const {
    return Tensor::of(std::span<const std::int32_t>(start),
                      {static_cast<std::int64_t>(start.size())});
  }
  KvView view() const {
    KvView kv;
    kv.length_BG = length.data();
    if (!table.empty()) {
      kv.table = table.data();
      kv.W = static_cast<std::int64_t>(table.size() / length.size());
    }
    return kv;
  }
};

AttentionSpec causal(Alignment alignment = Alignment::kBottomRight) {
  AttentionSpec spec;
  spec.alignment = alignment;
  return spec;
}

AttentionSpec unmasked() {
  AttentionSpec spec;
  spec.window_right = kUnlimited;
  spec.alignment = Alignment::kBottomRight;
  return spec;
}

/// out and lse in one row, so that both have a random gradient.
Var joined(const AttentionVars& result) {
  const std::vector<Var> parts = {view(contiguous(result.out_NHU), {-1}),
                                  view(contiguous(result.lse_NH), {-1})};
  return cat(parts, 0);
}

/// Attention of (q, k pages, v pages).
test::VarFunction attending(const Batch& batch, const AttentionSpec& spec) {
  return [&batch, spec](const std::vector<Var>& in) {
    return joined(attention(in[0], batch.start_J(), KvPool(in[1], in[2]), batch.view(), spec));
  };
}

// Two sequences share page 2; one is longer than it asks, one has a last page that is half full.
const Batch kShared = {{0, 3, 5, 5, 6}, {2, 0, -1, 2, 3, 1, -1, -1, -1, 1, -1, -1}, {4, 5, 0, 1}};

TEST(GradAttention, PAG_14_GradientsOfQueriesAndPages) {
  for (const std::int64_t G : {1, 2, 4}) {
    for (const AttentionSpec& spec : {causal(), unmasked()}) {
      SCOPED_TRACE(std::to_string(G));
      expect_tape_gradients(attending(kShared, spec),
                            {random_tensor({6, 4, 3}, 1), random_tensor({5, 2, G, 3}, 2),
                             random_tensor({5, 2, G, 5}, 3)});
    }
  }
}

TEST(GradAttention, PAG_14_ALossOfOutAndLseIsOneBackward) {
  // The bits of one call of the op, which two calls and a sum would not have; and the gradients of
  // the pool are held once.
  const Tensor q = random_tensor({6, 4, 16}, 1, DType::kF32),
               k = random_tensor({5, 2, 2, 16}, 2, DType::kF32),
               v = random_tensor({5, 2, 2, 16}, 3, DType::kF32),
               dout = random_tensor({6, 4, 16}, 4, DType::kF32),
               dlse = random_tensor({6, 4}, 5, DType::kF32);
  const std::vector<Var> in = test::leaves({q, k, v});
  const KvPool pool(in[1], in[2]);
  const AttentionVars result =
      attention(in[0], kShared.start_J(), pool, kShared.view(), unmasked());
  // (Rows that see nothing have lse −∞: a product with their gradient would be NaN.)
  const Var loss = add(sum(mul(result.out_NHU, Var(dout))),
                       sum(mul(clamp_min(result.lse_NH, -1e30), Var(dlse))));
  backward(loss);

  KvView kv = pool.view();
  const KvView table = kShared.view();
  kv.table = table.table;
  kv.W = table.W;
  kv.length_BG = table.length_BG;
  const AttentionResult plain = quire::attention(q, kShared.start_J(), kv, unmasked());
  Tensor dk = Tensor::zeros(k.shape(), DType::kF32), dv = Tensor::zeros(v.shape(), DType::kF32);
  AttentionGradients gradients;
  gradients.dk_pages = dk.mutable_data<float>();
  gradients.dv_pages = dv.mutable_data<float>();
  attention_backward(gradients, dout, dlse, q, kShared.start_J(), kv, unmasked(), plain);
  EXPECT_EQ(values(in[0].gradient()), values(gradients.dq_NHK));
  EXPECT_EQ(values(in[1].gradient()), values(dk));
  EXPECT_EQ(values(in[2].gradient()), values(dv));
}

TEST(GradAttention, PAG_10_PAG_14_ALossOfOutAndLseHoldsTheGradientsOfThePoolOnce) {
  const Batch batch = {{0, 2}, {}, {3}};
  const std::vector<Var> in = test::leaves({random_tensor({2, 1, 16}, 1, DType::kF32),
                                            random_tensor({1, 4096, 1, 16}, 2, DType::kF32),
                                            random_tensor({1, 4096, 1, 16}, 3, DType::kF32)});
  const auto held = [&](bool with_lse) {
    const AttentionVars result =
        attention(in[0], batch.start_J(), KvPool(in[1], in[2]), batch.view(), causal());
    Var loss = sum(result.out_NHU);
    if (with_lse) loss = add(loss, sum(result.lse_NH));
    const std::vector<Var> inputs = {in[0], in[1], in[2]};
    reset_peak_allocated_bytes();
    const std::int64_t before = allocated_bytes();
    (void)gradients(loss, Var(full({}, 1, DType::kF32)), inputs);
    return peak_allocated_bytes() - before;
  };
  const std::int64_t pool = 2 * 4096 * 16 * 4;
  (void)held(true);
  EXPECT_LT(held(false), pool + 8192);
  EXPECT_LT(held(true), pool + 8192);
}

TEST(GradAttention, PAG_13_GradientsUnderWindowsSoftcapAndScale) {
  AttentionSpec spec = causal();
  spec.window_left = 1;
  spec.softcap = 2;
  spec.scale = 0.7;
  expect_tape_gradients(attending(kShared, spec),
                        {random_tensor({6, 4, 3}, 1), random_tensor({5, 2, 2, 3}, 2),
                         random_tensor({5, 2, 2, 5}, 3)});
}

TEST(GradAttention, PAG_14_HeadsBeforeSlotsOfAPage) {
  const std::vector<Tensor> inputs = {random_tensor({6, 4, 3}, 1), random_tensor({5, 2, 2, 3}, 2),
                                      random_tensor({5, 2, 2, 4}, 3)};
  const Tensor dout = random_tensor({6, 4, 4}, 4);
  const auto gradients = [&](bool swapped) {
    const auto leaf = [&](const Tensor& x) {
      return Var(swapped ? x.transpose(1, 2).contiguous_copy().transpose(1, 2) : x,
                 Needs::kGradient);
    };
    const Var q(inputs[0], Needs::kGradient), k = leaf(inputs[1]), v = leaf(inputs[2]);
    const Batch& b = kShared;
    backward(attention(q, b.start_J(), KvPool(k, v), b.view(), causal()).out_NHU, dout);
    return std::vector<std::vector<double>>{values(q.gradient()), values(k.gradient()),
                                            values(v.gradient())};
  };
  EXPECT_EQ(gradients(true), gradients(false));
}

/// Numbers that f32 holds exactly, also when differences move them by 2⁻¹⁰.
Tensor coarse(Shape shape, std::uint64_t seed) {
  std::vector<double> out = values(random_tensor(shape, seed));
  for (double& x : out) x = std::round(x * 64) / 64;
  return tensor_of(out, std::move(shape));
}

TEST(GradAttention, FLA_12_GradientsOfBiasSlopesAndSinks) {
  for (const std::int64_t heads : {1, 2, 4}) {
    const std::vector<Tensor> inputs = {random_tensor({6, 4, 3}, 1),
                                        random_tensor({5, 2, 2, 3}, 2),
                                        random_tensor({5, 2, 2, 5}, 3),
                                        coarse({5, 2, heads}, 4),
                                        coarse({4}, 5),
                                        coarse({4}, 6)};
    const auto call = [&](const std::vector<Var>& in) {
      return joined(attention(in[0], kShared.start_J(), KvPool(in[1], in[2]), kShared.view(),
                              causal(), {.bias = in[3], .slope_H = in[4], .sink_H = in[5]}));
    };
    std::vector<Tensor> mixed = inputs;
    for (std::size_t i = 3; i < 6; ++i) mixed[i] = inputs[i].to(DType::kF32);
    const std::vector<Var> vars = test::leaves(mixed);
    const Var out = call(vars);
    const Tensor dout = random_tensor(out.shape(), 7);
    backward(out, dout);
    const test::TensorFunction plain = [&](const std::vector<Tensor>& in) {
      std::vector<Var> constants;
      for (std::size_t i = 0; i < 6; ++i)
        constants.emplace_back(i < 3 ? in[i] : in[i].to(DType::kF32));
      return call(constants).value();
    };
    for (std::size_t i = 0; i < 6; ++i) {
      // The gradients of f32 inputs are rounded to f32.
      expect_close(values(vars[i].gradient()), test::differences(plain, inputs, i, values(dout)),
                   "input " + std::to_string(i), i < 3 ? 1e-9 : 1e-6);
    }
  }
}

TEST(GradAttention, FLA_06_GradientsUnderAMask) {
  const Batch one = {{0, 3}, {1, 0}, {4}};
  const float hidden = -std::numeric_limits<float>::infinity();
  const float mask[] = {0, 0.5f, hidden, 1, hidden, hidden, hidden, hidden, -1, hidden, 0, 0};
  AttentionSpec spec = unmasked();
  spec.mask_TS = mask;
  spec.mask_stride = 4;
  // Row 1 sees nothing: its lse is −∞, which differences cannot take, so the loss is of out alone.
  const auto out_of = [&](const std::vector<Var>& in) {
    return attention(in[0], one.start_J(), KvPool(in[1], in[2]), one.view(), spec).out_NHU;
  };
  expect_tape_gradients(out_of, {random_tensor({3, 2, 3}, 1), random_tensor({2, 2, 1, 3}, 2),
                                 random_tensor({2, 2, 1, 3}, 3)});
}

TEST(GradAttention, PAG_09_T20_ASharedPageReceivesTheSumOfCopies) {
  const Tensor q = random_tensor({4, 2, 4}, 1), k = random_tensor({3, 2, 1, 4}, 2),
               v = random_tensor({3, 2, 1, 4}, 3), dout = random_tensor({4, 2, 4}, 4);
  const auto run = [&](const Tensor& k_pages, const Tensor& v_pages, const Batch& batch) {
    const Var keys(k_pages, Needs::kGradient), numbers(v_pages, Needs::kGradient);
    backward(
        attention(Var(q), batch.start_J(), KvPool(keys, numbers), batch.view(), causal()).out_NHU,
        dout);
    return std::pair{values(keys.gradient()), values(numbers.gradient())};
  };
  const auto [dk, dv] = run(k, v, {{0, 2, 4}, {0, 1, 0, 2}, {4, 4}});
  // The second sequence has its own copy of page 0 as page 3.
  const auto copied = [](const Tensor& pages) {
    const std::vector<Var> parts = {Var(pages), Var(pages.slice(0, 0, 1))};
    return cat(parts, 0).value();
  };
  const auto [dk_apart, dv_apart] = run(copied(k), copied(v), {{0, 2, 4}, {0, 1, 3, 2}, {4, 4}});
  for (std::size_t i = 0; i < 24; ++i) {
    EXPECT_NEAR(dk[i], dk_apart[i] + (i < 8 ? dk_apart[24 + i] : 0), 1e-14);
    EXPECT_NEAR(dv[i], dv_apart[i] + (i < 8 ? dv_apart[24 + i] : 0), 1e-14);
  }
}

// The six goldens: computed once by automatic differentiation in double precision over dense keys.
struct Golden {
  const char* name;
  std::int64_t H, G, T, S;
  std::vector<std::int32_t> table;
  AttentionSpec spec;
  double out, lse, dq, dk, dv;
};

std::vector<Golden> goldens() {
  const AttentionSpec left = causal(Alignment::kTopLeft), right = causal();
  return {{"G1 the seed's test",
           2,
           1,
           4,
           4,
           {0, 1, 2, 3},
           left,
           59.984848274,
           18.785259365,
           0.112518868,
           1.262363779,
           44.265143544},
          {"G2 a shared prefix",
           2,
           1,
           4,
           4,
           {0, 1, 0, 2},
           left,
           62.818283883,
           15.490031156,
           0.187920635,
           1.323196199,
           44.265143544},
          {"G3 grouped heads, scrambled pages",
           4,
           2,
           4,
           4,
           {3, 1, 0, 2},
           left,
           81.205550810,
           50.934864582,
           3.582180460,
           11.995486401,
           71.617512382},
          {"G4 few queries, top-left",
           4,
           2,
           2,
           4,
           {3, 1, 0, 2},
           left,
           42.096152073,
           19.264076720,
           0.085316056,
           1.737476821,
           44.265143544},
          {"G5 few queries, bottom-right",
           4,
           2,
           2,
           4,
           {3, 1, 0, 2},
           right,
           38.026787406,
           35.628404427,
           3.609583125,
           13.901784959,
           44.265143544},
          {"G6 a last page half full",
           4,
           2,
           3,
           3,
           {3, 1, 0, 2},
           unmasked(),
           58.460147837,
           47.843746077,
           4.903029180,
           17.629622636,
           65.398419050}};
}

Tensor wave(Shape shape, double step, double (*f)(double)) {
  Tensor out = Tensor::empty(std::move(shape), DType::kF64);
  double* to = out.mutable_data<double>();
  for (std::int64_t i = 0; i < out.elements(); ++i) to[i] = f(step * static_cast<double>(i));
  return out;
}

/// The goldens count [B, H, T, K]; ours are rows.
Tensor rows(const Tensor& x_BHTK) {
  return x_BHTK.transpose(1, 2).contiguous_copy().view(
      {x_BHTK.size(0) * x_BHTK.size(2), x_BHTK.size(1), x_BHTK.size(3)});
}

double total(const Tensor& x, bool magnitudes) {
  double sum = 0;
  for (const double number : values(x)) sum += magnitudes ? std::abs(number) : number;
  return sum;
}

TEST(GradAttention, PAG_08_GoldensG1ToG6) {
  for (const Golden& golden : goldens()) {
    SCOPED_TRACE(golden.name);
    const auto sine = [](double x) { return std::sin(x); };
    const auto cosine = [](double x) { return std::cos(x); };
    const std::int32_t T = static_cast<std::int32_t>(golden.T);
    const Batch batch = {{0, T, 2 * T}, golden.table, {golden.S, golden.S}};
    const Var k(wave({4, 2, golden.G, 4}, 0.017, sine), Needs::kGradient),
        v(wave({4, 2, golden.G, 4}, 0.023, cosine), Needs::kGradient),
        q(rows(wave({2, golden.H, golden.T, 4}, 0.01, cosine)), Needs::kGradient);
    const AttentionVars result =
        attention(q, batch.start_J(), KvPool(k, v), batch.view(), golden.spec);
    EXPECT_NEAR(total(result.out_NHU.value(), false), golden.out, 1e-9);
    EXPECT_NEAR(total(result.lse_NH.value(), false), golden.lse, 1e-9);
    backward(result.out_NHU, rows(wave({2, golden.H, golden.T, 4}, 0.03, sine)));
    EXPECT_NEAR(total(q.gradient(), true), golden.dq, 1e-9);
    EXPECT_NEAR(total(k.gradient(), true), golden.dk, 1e-9);
    EXPECT_NEAR(total(v.gradient(), true), golden.dv, 1e-9);
    const std::vector<double> dv = values(v.gradient());
    const std::vector<double> first =
        golden.name[1] == '1'   ? std::vector<double>{1.2647981, 1.3710240, 1.4760160, 1.5796797}
        : golden.name[1] == '2' ? std::vector<double>{4.8316386, 4.9662242, 5.0963405, 5.2218704}
                                : std::vector<double>{};
    for (std::size_t i = 0; i < first.size(); ++i) EXPECT_NEAR(dv[i], first[i], 1e-7);
  }
}

TEST(GradAttention, PAG_15_TheSameBitsWithAnyThreads) {
  const Batch batch = {{0, 90, 210}, {0, 1, 2, 3, 0, 1, 4, 5}, {100, 120}};
  const Tensor q = random_tensor({210, 4, 16}, 1, DType::kF32),
               k = random_tensor({6, 32, 2, 16}, 2, DType::kF32),
               v = random_tensor({6, 32, 2, 16}, 3, DType::kF32),
               dout = random_tensor({210, 4, 16}, 4, DType::kF32);
  std::vector<std::vector<double>> expected;
  for (const int threads : {1, 2, 7, 2}) {
    set_threads(threads);
    const std::vector<Var> in = test::leaves({q, k, v});
    backward(
        attention(in[0], batch.start_J(), KvPool(in[1], in[2]), batch.view(), causal()).out_NHU,
        dout);
    std::vector<std::vector<double>> found;
    for (const Var& x : in) found.push_back(values(x.gradient()));
    if (expected.empty()) expected = found;
    EXPECT_EQ(found, expected) << threads << " threads";
  }
  set_threads(1);
}

TEST(GradAttention, PAG_12_B2_B18_T16_HalfTypesGiveGradientsOfTheirOwnDType) {
  // A pool of f16 or bf16 has gradients too, summed in f32 and rounded once.
  for (const DType dtype : {DType::kBF16, DType::kF16}) {
    const std::vector<Tensor> in = {random_tensor({6, 4, 16}, 1, dtype),
                                    random_tensor({5, 2, 2, 16}, 2, dtype),
                                    random_tensor({5, 2, 2, 16}, 3, dtype)};
    const Tensor dout = random_tensor({6, 4, 16}, 4, dtype);
    const auto run = [&](DType as) {
      std::vector<Tensor> inputs;
      for (const Tensor& x : in) inputs.push_back(x.to(as));
      const std::vector<Var> vars = test::leaves(inputs);
      backward(
          attention(vars[0], kShared.start_J(), KvPool(vars[1], vars[2]), kShared.view(), causal())
              .out_NHU,
          dout.to(as));
      return vars;
    };
    const std::vector<Var> found = run(dtype), wide = run(DType::kF32);
    for (std::size_t i = 0; i < 3; ++i) {
      EXPECT_EQ(found[i].gradient().dtype(), dtype);
      EXPECT_EQ(values(found[i].gradient()), values(wide[i].gradient().to(dtype))) << i;
    }
  }
}

TEST(GradAttention, B1_B2_B4_B5_EveryRowOfEveryHeadAtSize128) {
  // All sizes differ: 6 query heads on 2, pages of 16 in rows of 11, 140 queries on 170 keys. Each
  // row of dq is written, and dk and dv have one number for each key head, close to those in f64.
  std::vector<std::int32_t> table = {12, 3, 7, 0, 9, 1, 5, 11, 2, 8, 4};
  const Batch batch = {{0, 140}, table, {170}};
  const std::vector<Tensor> in = {random_tensor({140, 6, 128}, 1, DType::kF32),
                                  random_tensor({13, 16, 2, 128}, 2, DType::kF32),
                                  random_tensor({13, 16, 2, 128}, 3, DType::kF32)};
  const Tensor dout = random_tensor({140, 6, 128}, 4, DType::kF32);
  const auto run = [&](DType dtype) {
    std::vector<Tensor> inputs;
    for (const Tensor& x : in) inputs.push_back(x.to(dtype));
    const std::vector<Var> vars = test::leaves(inputs);
    backward(attention(vars[0], batch.start_J(), KvPool(vars[1], vars[2]), batch.view(), causal())
                 .out_NHU,
             dout.to(dtype));
    return vars;
  };
  const std::vector<Var> found = run(DType::kF32), truth = run(DType::kF64);
  for (std::size_t i = 0; i < 3; ++i) {
    // Sums of some hundred products of f32: their error is far below this, a lost row is not.
    expect_close(values(found[i].gradient()), values(truth[i].gradient()),
                 "input " + std::to_string(i), 1e-5);
  }
  const std::vector<double> dq = values(found[0].gradient());
  for (std::size_t row = 0; row < 140 * 6; ++row) {
    const auto begin = dq.begin() + static_cast<std::ptrdiff_t>(row * 128);
    EXPECT_TRUE(std::any_of(begin, begin + 128, [](double x) { return x != 0; })) << row;
  }
  EXPECT_EQ(found[1].gradient().shape(), (Shape{13, 16, 2, 128}));
}

TEST(GradAttention, FLA_15_T22_NaNInUnusedSlotsReachesNothing) {
  const double nan = std::nan("");
  std::vector<double> k = values(random_tensor({3, 4, 1, 4}, 1)),
                      v = values(random_tensor({3, 4, 1, 4}, 2));
  for (std::size_t i = 20; i < 48; ++i) k[i] = v[i] = nan;  // slots from 5 on
  const Batch batch = {{0, 2}, {0, 1}, {5}};
  const Var q(random_tensor({2, 2, 4}, 3), Needs::kGradient),
      keys(tensor_of(k, {3, 4, 1, 4}), Needs::kGradient),
      numbers(tensor_of(v, {3, 4, 1, 4}), Needs::kGradient);
  backward(attention(q, batch.start_J(), KvPool(keys, numbers), batch.view(), causal()).out_NHU,
           random_tensor({2, 2, 4}, 4));
  for (const Var* x : {&q, &keys, &numbers})
    for (const double g : values(x->gradient())) EXPECT_FALSE(std::isnan(g));
  const std::vector<double> dk = values(keys.gradient());
  for (std::size_t i = 20; i < 48; ++i) EXPECT_EQ(dk[i], 0);
}

TEST(GradAttention, ConstantsStayOffTheTape) {
  const Batch batch = {{0, 2}, {}, {3}};
  const auto result =
      attention(Var(random_tensor({2, 2, 4}, 1)), batch.start_J(),
                KvPool(Var(random_tensor({1, 3, 2, 4}, 2)), Var(random_tensor({1, 3, 2, 4}, 3))),
                batch.view(), causal());
  EXPECT_FALSE(result.out_NHU.needs_gradient());
  EXPECT_FALSE(result.lse_NH.needs_gradient());
}

TEST(GradAttention, OnlyWhatNeedsAGradientGetsOne) {
  const Batch batch = {{0, 2}, {}, {3}};
  const Tensor q = random_tensor({2, 2, 4}, 1), k = random_tensor({1, 3, 2, 4}, 2),
               v = random_tensor({1, 3, 2, 4}, 3), dout = random_tensor({2, 2, 4}, 4);
  std::vector<Var> all = test::leaves({q, k, v});
  backward(
      attention(all[0], batch.start_J(), KvPool(all[1], all[2]), batch.view(), causal()).out_NHU,
      dout);
  for (std::size_t which = 0; which < 3; ++which) {
    std::vector<Var> some = {Var(q), Var(k), Var(v)};
    some[which] = Var(some[which].value(), Needs::kGradient);
    backward(attention(some[0], batch.start_J(), KvPool(some[1], some[2]), batch.view(), causal())
                 .out_NHU,
             dout);
    EXPECT_EQ(values(some[which].gradient()), values(all[which].gradient())) << which;
  }
}

// Writes into pages.

const Batch kFive = {{0, 2}, {1, 0, 2}, {5}};
const std::vector<std::int64_t> kSlots = {2, 3, 0, -1, 1, 4};  // of pages of 2: pages 1, 0, 2

Tensor slots(const std::vector<std::int64_t>& numbers) {
  return test::index_of(numbers, {static_cast<std::int64_t>(numbers.size())});
}

TEST(GradKvWrite, PAG_16_GradientsOfTokensAndOfWhatStoodThere) {
  // Inputs in f32 (as kv_write takes them): the truth is attention over pages put together by hand.
  const Tensor q = random_tensor({2, 2, 4}, 1, DType::kF32),
               k = random_tensor({6, 1, 4}, 2, DType::kF32),
               v = random_tensor({6, 1, 4}, 3, DType::kF32),
               dout = random_tensor({2, 2, 4}, 4, DType::kF32);
  const Tensor before_k = random_tensor({3, 2, 1, 4}, 5, DType::kF32),
               before_v = random_tensor({3, 2, 1, 4}, 6, DType::kF32);
  const std::vector<std::int64_t> to = {2, -1, 0, 4, 2};  // slot 2 twice: the later token stands
  const Tensor some_k = k.slice(0, 0, 5), some_v = v.slice(0, 0, 5);
  std::vector<Var> in =
      test::leaves({q, some_k, some_v, before_k.to(DType::kF32), before_v.to(DType::kF32)});
  const KvPool pool(in[3], in[4]);
  kv_write(pool, in[1], in[2], slots(to));
  backward(attention(in[0], kFive.start_J(), pool, kFive.view(), causal()).out_NHU, dout);

  const std::vector<Var> whole =
      test::leaves({q, pool.k_pages_PZGK().value(), pool.v_pages_PZGU().value()});
  backward(attention(whole[0], kFive.start_J(), KvPool(whole[1], whole[2]), kFive.view(), causal())
               .out_NHU,
           dout);
  EXPECT_EQ(values(in[0].gradient()), values(whole[0].gradient()));
  for (const std::size_t at : {1u, 2u}) {
    const std::vector<double> dpages = values(whole[at].gradient()),
                              dtokens = values(in[at].gradient()),
                              dbefore = values(in[at + 2].gradient());
    for (std::size_t d = 0; d < 4; ++d) {
      EXPECT_EQ(dtokens[0 * 4 + d], 0);  // overwritten within the call
      EXPECT_EQ(dtokens[1 * 4 + d], 0);  // skipped
      EXPECT_EQ(dtokens[2 * 4 + d], dpages[0 * 4 + d]);
      EXPECT_EQ(dtokens[3 * 4 + d], dpages[4 * 4 + d]);
      EXPECT_EQ(dtokens[4 * 4 + d], dpages[2 * 4 + d]);
      for (const std::size_t slot : {1u, 3u, 5u})
        EXPECT_EQ(dbefore[slot * 4 + d], dpages[slot * 4 + d]) << slot;
      for (const std::size_t slot : {0u, 2u, 4u}) EXPECT_EQ(dbefore[slot * 4 + d], 0) << slot;
    }
    EXPECT_NE(dtokens[4 * 4], 0);
  }
}

/// A pool of f32 zeros, [3, 2, 1, 4].
KvPool empty_pool() {
  return {Var(Tensor::zeros({3, 2, 1, 4}, DType::kF32)),
          Var(Tensor::zeros({3, 2, 1, 4}, DType::kF32))};
}

struct Tokens {
  Var k, v;
};
Tokens tokens(std::int64_t N, std::uint64_t seed) {
  return {Var(random_tensor({N, 1, 4}, seed, DType::kF32), Needs::kGradient),
          Var(random_tensor({N, 1, 4}, seed + 1, DType::kF32), Needs::kGradient)};
}

TEST(GradKvWrite, PAG_14_AppendingBehindTheKeysOfAForwardIsAllowed) {
  // Token by token into pages, each step attended: the gradients of one causal call.
  const Tensor q = random_tensor({5, 2, 4}, 1, DType::kF32),
               dout = random_tensor({5, 2, 4}, 2, DType::kF32);
  const Tokens all = tokens(5, 3);
  const KvPool once = empty_pool();
  kv_write(once, all.k, all.v, slots({2, 3, 0, 1, 4}));
  const Batch whole = {{0, 5}, {1, 0, 2}, {5}};
  backward(attention(Var(q), whole.start_J(), once, whole.view(), causal()).out_NHU, dout);

  const KvPool pool = empty_pool();
  std::vector<Tokens> steps;
  Var loss;
  const std::int64_t order[] = {2, 3, 0, 1, 4};
  for (std::int64_t t = 0; t < 5; ++t) {
    steps.push_back({Var(all.k.value().slice(0, t, t + 1).contiguous_copy(), Needs::kGradient),
                     Var(all.v.value().slice(0, t, t + 1).contiguous_copy(), Needs::kGradient)});
    kv_write(pool, steps.back().k, steps.back().v, slots({order[t]}));
    const Batch one = {{0, 1}, {1, 0, 2}, {t + 1}};
    const Var out = attention(Var(q.slice(0, t, t + 1).contiguous_copy()), one.start_J(), pool,
                              one.view(), causal())
                        .out_NHU;
    const Var part = sum(mul(out, Var(dout.slice(0, t, t + 1).contiguous_copy())));
    loss = t == 0 ? part : add(loss, part);
  }
  backward(loss);
  for (std::size_t t = 0; t < 5; ++t) {
    const auto at = static_cast<std::int64_t>(t);
    expect_close(values(steps[t].k.gradient()), values(all.k.gradient().slice(0, at, at + 1)),
                 "dk of " + std::to_string(t), 1e-6);
    expect_close(values(steps[t].v.gradient()), values(all.v.gradient().slice(0, at, at + 1)),
                 "dv of " + std::to_string(t), 1e-6);
  }
}

TEST(GradKvWrite, PAG_14_AnOverwrittenPageIsAnError) {
  const auto forward = [](const KvPool& pool) {
    const Tokens five = tokens(5, 3);
    kv_write(pool, five.k, five.v, slots({2, 3, 0, 1, 4}));
    return attention(Var(random_tensor({2, 2, 4}, 1, DType::kF32)), kFive.start_J(), pool,
                     kFive.view(), causal())
        .out_NHU;
  };
  const Tensor dout = random_tensor({2, 2, 4}, 2, DType::kF32);
  const Tokens other = tokens(1, 9);
  for (const std::int64_t unseen : {5, -1}) {
    const KvPool pool = empty_pool();
    const Var out = forward(pool);
    kv_write(pool, other.k, other.v, slots({unseen}));
    EXPECT_NO_THROW(backward(out, dout)) << unseen;
  }
  const KvPool pool = empty_pool();
  const Var out = forward(pool);
  kv_write(pool, other.k, other.v, slots({3}));
  EXPECT_THAT([&] { backward(out, dout); },
              ThrowsMessage<ArgumentError>(HasSubstr("page 1 was overwritten")));
}

TEST(GradKvWrite, PAG_14_AWriteThroughAnotherTensorIsAnError) {
  Tensor memory = random_tensor({1, 3, 2, 4}, 1);
  const Batch batch = {{0, 2}, {}, {3}};
  const KvPool pool(Var(memory, Needs::kGradient), Var(random_tensor({1, 3, 2, 4}, 2)));
  const auto forward = [&] {
    return attention(Var(random_tensor({2, 2, 4}, 3)), batch.start_J(), pool, batch.view(),
                     causal())
        .out_NHU;
  };
  const Tensor dout = random_tensor({2, 2, 4}, 4);
  Var out = forward();
  memory.mutable_data<double>()[0] = 1;
  EXPECT_THROW(backward(out, dout), ArgumentError);
  out = forward();  // after the write all is well again
  EXPECT_NO_THROW(backward(out, dout));
}

TEST(GradAttention, SavedInputsAreGuarded) {
  Tensor q = random_tensor({2, 2, 4}, 3);
  const Batch batch = {{0, 2}, {}, {3}};
  const Var out =
      attention(Var(q, Needs::kGradient), batch.start_J(),
                KvPool(Var(random_tensor({1, 3, 2, 4}, 1)), Var(random_tensor({1, 3, 2, 4}, 2))),
                batch.view(), causal())
          .out_NHU;
  q.mutable_data<double>()[0] = 1;
  EXPECT_THROW(backward(out, random_tensor({2, 2, 4}, 4)), ArgumentError);
}

TEST(GradAttention, Errors) {
  const Tensor f32 = Tensor::zeros({2, 4, 1, 8}, DType::kF32);
  const auto pool = [](Tensor k, Tensor v) { (void)KvPool(Var(std::move(k)), Var(std::move(v))); };
  EXPECT_THROW(pool(f32, Tensor::zeros({2, 4, 1, 8}, DType::kF64)), ArgumentError);
  EXPECT_THROW(pool(f32, Tensor::zeros({2, 3, 1, 8}, DType::kF32)), ArgumentError);
  EXPECT_THROW(pool(f32, Tensor::zeros({2, 4, 8}, DType::kF32)), ArgumentError);
  EXPECT_THROW(pool(f32.slice(3, 0, 4), f32), ArgumentError);
  EXPECT_THROW(pool(Tensor::zeros({2, 4, 1, 8}, DType::kI8), f32), ArgumentError);
  const KvPool right{Var(f32), Var(f32)};
  const Batch batch = {{0, 1}, {0}, {4}};
  const Var q(Tensor::zeros({1, 2, 8}, DType::kF32), Needs::kGradient);
  const auto with = [&](const AttentionBiases& biases) {
    (void)attention(q, batch.start_J(), right, batch.view(), causal(), biases);
  };
  EXPECT_NO_THROW(with({}));
  EXPECT_THROW(with({.slope_H = Var(Tensor::zeros({3}, DType::kF32))}), ArgumentError);
  EXPECT_THROW(with({.sink_H = Var(Tensor::zeros({2, 1}, DType::kF32))}), ArgumentError);
  EXPECT_THROW(with({.sink_H = Var(Tensor::zeros({2}, DType::kF64))}), ArgumentError);
  EXPECT_THROW(with({.bias = Var(Tensor::zeros({2, 3, 1}, DType::kF32))}), ArgumentError);
  EXPECT_THROW(with({.bias = Var(Tensor::zeros({2, 4, 3}, DType::kF32))}), ArgumentError);
}

TEST(GradKvWrite, B19_SlotNumbersAreCheckedForDTypeAndRange) {
  const Tensor pages = Tensor::zeros({2, 4, 1, 8}, DType::kF32);
  const KvPool pool{Var(pages), Var(Tensor::zeros({2, 4, 1, 8}, DType::kF32))};
  const Var token(full({1, 1, 8}, 3, DType::kF32), Needs::kGradient);
  const auto number = [&](std::int64_t slot) {
    return values(pages)[static_cast<std::size_t>(slot * 8)];
  };
  kv_write(pool, token, token, slots({6}));
  EXPECT_EQ(number(6), 3);
  kv_write(pool, token, token, slots({1}).to(DType::kI32));
  EXPECT_EQ(number(1), 3);
  // Several: 64-bit numbers that are read as 32-bit ones are every other 0.
  const Var three(tensor_of({4, 5, 6}, {3, 1, 1}, DType::kF32).expand({3, 1, 8}));
  kv_write(pool, three, three, slots({7, 3, 5}));
  EXPECT_EQ((std::vector<double>{number(7), number(3), number(5), number(0)}),
            (std::vector<double>{4, 5, 6, 0}));
  kv_write(pool, three, three, slots({2, 4, 3}).to(DType::kI32));
  EXPECT_EQ((std::vector<double>{number(2), number(4), number(3), number(0)}),
            (std::vector<double>{4, 5, 6, 0}));
  EXPECT_THROW(kv_write(pool, token, token, Tensor::zeros({1}, DType::kF32)), ArgumentError);
  for (const std::int64_t slot : {-2, 8})
    EXPECT_THROW(kv_write(pool, token, token, slots({slot})), ArgumentError);
  EXPECT_EQ(number(0), 0);
  const NoGradient none;
  EXPECT_THROW(kv_write(pool, token, token, slots({0})), ArgumentError);
}

}  // namespace
}  // namespace quire::grad

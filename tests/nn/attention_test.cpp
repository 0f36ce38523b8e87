#include "quire/nn/attention.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <cmath>
#include <string>

#include "quire/base/error.h"
#include "quire/base/thread_pool.h"
#include "quire/grad/math.h"
#include "quire/grad/matmul.h"
#include "quire/grad/views.h"
#include "quire/io/safetensors.h"
#include "quire/ops/matmul/linear.h"
#include "tests/support/tape_check.h"

namespace quire::nn {
namespace {

using grad::Needs;
using grad::Var;
using test::expect_close;
using test::random_tensor;
using test::values;
using testing::HasSubstr;
using testing::ThrowsMessage;

struct Sizes {
  const char* name;
  std::int64_t D, H, G;
};
constexpr Sizes kCases[] = {{"self", 12, 1, 1}, {"multi", 12, 3, 3}, {"gqa", 16, 4, 2}};

const io::SafetensorsFile& golden() {
  static const io::SafetensorsFile file(QUIRE_SOURCE_DIR "/tests/goldens/nn/attention.safetensors");
  return file;
}
Tensor read(const std::string& name) { return golden().read(name); }

AttentionWeights<Tensor> golden_weights(const std::string& name, DType dtype) {
  return {read(name + ".q").to(dtype), read(name + ".k").to(dtype), read(name + ".v").to(dtype),
          read(name + ".output").to(dtype)};
}

AttentionWeights<Tensor> random_weights(const Sizes& s, std::uint64_t seed, DType dtype) {
  const std::int64_t narrow = s.D / s.H * s.G;
  return {random_tensor({s.D, s.D}, seed, dtype), random_tensor({narrow, s.D}, seed + 1, dtype),
          random_tensor({narrow, s.D}, seed + 2, dtype),
          random_tensor({s.D, s.D}, seed + 3, dtype)};
}

AttentionWeights<Var> as_vars(const AttentionWeights<Tensor>& w) {
  return {Var(w.q, Needs::kGradient), Var(w.k, Needs::kGradient), Var(w.v, Needs::kGradient),
          Var(w.output, Needs::kGradient)};
}

/// One class of the notebook's by name, for either kind of value.
template <class Value>
GroupedQueryAttention<Value> layer_of(const Sizes& s, AttentionWeights<Value> weights) {
  if (s.H == 1) return SelfAttention<Value>(std::move(weights));
  if (s.H == s.G) return MultiHeadAttention<Value>(s.H, std::move(weights));
  return GroupedQueryAttention<Value>(s.H, s.G, std::move(weights));
}

// f64: both sides round sums of a dozen terms. f32: the same, 2⁻²⁴ each.
void expect_golden(const Sizes& s) {
  for (const Sees sees : {Sees::kAll, Sees::kCausal}) {
    const std::string kind = std::string(s.name) + (sees == Sees::kAll ? ".all." : ".causal.");
    SCOPED_TRACE(kind);
    for (const DType dtype : {DType::kF64, DType::kF32}) {
      const double tolerance = dtype == DType::kF64 ? 1e-13 : 1e-6;
      const AttentionWeights<Tensor> weights = golden_weights(s.name, dtype);
      const Tensor x = read(std::string(s.name) + ".x").to(dtype);
      const std::vector<double> out = values(read(kind + "out"));
      expect_close(values(layer_of(s, weights)(x, sees)), out, "Tensor", tolerance);

      const Var input(x, Needs::kGradient);
      const GroupedQueryAttention<Var> layer = layer_of(s, as_vars(weights));
      const Var found = layer(input, sees);
      expect_close(values(found.value()), out, "Var", tolerance);
      backward(found, read(std::string(s.name) + ".dout").to(dtype));
      const AttentionWeights<Var>& w = layer.weights();
      const std::pair<const Var*, const char*> gradients[] = {
          {&input, "dx"}, {&w.q, "dq"}, {&w.k, "dk"}, {&w.v, "dv"}, {&w.output, "doutput"}};
      for (const auto& [var, name] : gradients)
        expect_close(values(var->gradient()), values(read(kind + name)), name, tolerance);
    }
  }
}

TEST(Attention, ATT_01_T26_SelfAttentionEqualsPyTorch) { expect_golden(kCases[0]); }

TEST(Attention, ATT_02_T26_ManyHeadsEqualPyTorch) { expect_golden(kCases[1]); }

TEST(Attention, ATT_02_T26_OneHeadIsSelfAttention) {
  const AttentionWeights<Tensor> weights = random_weights(kCases[0], 1, DType::kF64);
  const Tensor x = random_tensor({2, 5, 12}, 9);
  EXPECT_EQ(values(SelfAttention<Tensor>(weights)(x)),
            values(MultiHeadAttention<Tensor>(1, weights)(x)));
  // Its scores are divided by √hidden, here of queries that are √hidden times as large.
  AttentionWeights<Tensor> scaled = weights;
  scaled.q = mul(weights.q, std::sqrt(12.0));
  const Tensor q = linear(x, scaled.q), k = linear(x, weights.k), v = linear(x, weights.v);
  std::vector<double> expected;
  for (std::int64_t b = 0; b < 2; ++b) {
    for (std::int64_t t = 0; t < 5; ++t) {
      double sum = 0, weight[5], out[12] = {};
      for (std::int64_t s = 0; s < 5; ++s) {
        double score = 0;
        for (std::int64_t d = 0; d < 12; ++d)
          score += q.data<double>()[(b * 5 + t) * 12 + d] * k.data<double>()[(b * 5 + s) * 12 + d];
        sum += weight[s] = std::exp(score / std::sqrt(12.0));
      }
      for (std::int64_t s = 0; s < 5; ++s)
        for (std::int64_t d = 0; d < 12; ++d)
          out[d] += weight[s] / sum * v.data<double>()[(b * 5 + s) * 12 + d];
      expected.insert(expected.end(), out, out + 12);
    }
  }
  const Tensor heads = test::tensor_of(expected, {2, 5, 12});
  expect_close(values(SelfAttention<Tensor>(scaled)(x)), values(linear(heads, weights.output)),
               "by hand", 1e-12);
}

TEST(Attention, ATT_03_GroupedHeadsEqualPyTorch) { expect_golden(kCases[2]); }

TEST(Attention, ATT_03_AsManyKeyHeadsAsQueryHeadsIsMultiHead) {
  const AttentionWeights<Tensor> weights = random_weights(kCases[1], 1, DType::kF64);
  const Tensor x = random_tensor({2, 5, 12}, 9);
  EXPECT_EQ(values(GroupedQueryAttention<Tensor>(3, 3, weights)(x)),
            values(MultiHeadAttention<Tensor>(3, weights)(x)));
}

/// Rows of `heads` heads, each repeated: query head h reads head h / repeats.
Tensor repeated(const Tensor& rows, std::int64_t heads, std::int64_t repeats) {
  std::vector<Var> parts;
  const std::int64_t K = rows.size(0) / heads;
  for (std::int64_t h = 0; h < heads * repeats; ++h)
    parts.emplace_back(rows.slice(0, h / repeats * K, (h / repeats + 1) * K));
  return cat(parts, 0).value();
}

TEST(Attention, ATT_03_B3_T18_GroupedHeadsEqualManyHeadsWithTiedKeysAndValues) {
  // Head h reads key head h / (H/G), for more than one key head.
  const Sizes s = {"", 24, 6, 2};
  AttentionWeights<Tensor> weights = random_weights(s, 1, DType::kF64);
  const Tensor x = random_tensor({2, 5, 24}, 9);
  const Tensor grouped = GroupedQueryAttention<Tensor>(6, 2, weights)(x, Sees::kCausal);
  weights.k = repeated(weights.k, 2, 3);
  weights.v = repeated(weights.v, 2, 3);
  expect_close(values(grouped), values(MultiHeadAttention<Tensor>(6, weights)(x, Sees::kCausal)),
               "tied", 1e-13);
}

TEST(Attention, ATT_03_T27_WhatTheNotebookPrintedHadNoSoftmax) {
  // The third class of the notebook multiplied its scores with the values as they were.
  const AttentionWeights<Tensor> w = golden_weights("gqa", DType::kF64);
  const Tensor x = read("gqa.x");
  const Tensor k = repeated(w.k, 2, 2), v = repeated(w.v, 2, 2);
  const auto heads = [&](const Tensor& weight) {
    return Var(linear(x, weight).view({2, 7, 4, 4}).transpose(1, 2));
  };
  const Var scores = mul(grad::matmul(heads(w.q), transpose(heads(k), 2, 3)), 0.5);
  const Var out = contiguous(transpose(grad::matmul(scores, heads(v)), 1, 2));
  const std::vector<double> printed = values(linear(out.value().view({2, 7, 16}), w.output));
  expect_close(printed, values(read("gqa.without_softmax")), "notebook", 1e-12);
  const std::vector<double> ours = values(GroupedQueryAttention<Tensor>(4, 2, w)(x));
  double apart = 0;
  for (std::size_t i = 0; i < ours.size(); ++i)
    apart = std::max(apart, std::abs(ours[i] - printed[i]));
  EXPECT_GT(apart, 0.1);
}

/// The outputs of a layer that is fed `step` tokens at a time.
template <class Value>
std::vector<double> fed(const GroupedQueryAttention<Value>& layer, const Tensor& x,
                        std::int64_t step, Sees sees) {
  AttentionCache<Value> cache(x.size(1));
  std::vector<Var> parts;
  for (std::int64_t at = 0; at < x.size(1); at += step) {
    const Value part(x.slice(1, at, std::min(at + step, x.size(1))));
    if constexpr (std::is_same_v<Value, Tensor>) {
      parts.emplace_back(layer(part, cache, sees));
    } else {
      parts.push_back(layer(part, cache, sees));
    }
  }
  EXPECT_EQ(cache.length(), x.size(1));
  return values(cat(parts, 1).value());
}

TEST(Attention, ATT_04_StepsWithACacheAreTheRowsOfTheWhole) {
  for (const Sizes& s : kCases) {
    SCOPED_TRACE(s.name);
    const AttentionWeights<Tensor> weights = random_weights(s, 1, DType::kF32);
    const GroupedQueryAttention<Tensor> layer = layer_of(s, weights);
    const GroupedQueryAttention<Var> trained = layer_of(s, as_vars(weights));
    const Tensor x = random_tensor({3, 130, s.D}, 9, DType::kF32);
    const std::vector<double> whole = values(layer(x, Sees::kCausal));
    for (const std::int64_t step : {130, 7, 1}) {
      EXPECT_EQ(fed(layer, x, step, Sees::kCausal), whole) << step;
    }
    EXPECT_EQ(fed(trained, x, 7, Sees::kCausal), whole);
    EXPECT_EQ(values(trained(Var(x), Sees::kCausal).value()), whole);
  }
}

/// The head sizes of the notebook's layers (512, 64 and 16), over more tokens than a tile of keys
/// and a tile of rows have. Beside f64, which is held to PyTorch above; a dot product of D terms of
/// at most 1 is off by D·2⁻²⁴ at most, and by its root as a rule.
TEST(Attention, ATT_01_ATT_02_ATT_03_ATT_04_TheNotebooksSizes) {
  for (const Sizes& s : {Sizes{"self", 512, 1, 1}, {"multi", 512, 8, 8}, {"gqa", 256, 16, 4}}) {
    SCOPED_TRACE(s.name);
    Rng rng(7);
    const AttentionWeights<Tensor> weights = attention_init<Tensor>(s.D, s.H, s.G, rng);
    const auto layer = layer_of(s, weights);
    const auto wide =
        layer_of<Tensor>(s, {weights.q.to(DType::kF64), weights.k.to(DType::kF64),
                             weights.v.to(DType::kF64), weights.output.to(DType::kF64)});
    const Tensor x = random_tensor({1, 150, s.D}, 9, DType::kF32);
    for (const Sees sees : {Sees::kAll, Sees::kCausal}) {
      const std::vector<double> out = values(layer(x, sees));
      expect_close(out, values(wide(x.to(DType::kF64), sees)), "f64", 2e-6);
      if (sees == Sees::kCausal) {
        EXPECT_EQ(fed(layer, x, 149, sees), out);
      }
    }
  }
}

TEST(Attention, ATT_04_WithoutAMaskTheLastStepSeesEverything) {
  const AttentionWeights<Tensor> weights = random_weights(kCases[2], 1, DType::kF64);
  const GroupedQueryAttention<Tensor> layer = layer_of(kCases[2], weights);
  const Tensor x = random_tensor({2, 9, 16}, 9);
  AttentionCache<Tensor> cache(9);
  (void)layer(x.slice(1, 0, 8), cache);
  const Tensor last = layer(x.slice(1, 8, 9), cache);
  EXPECT_EQ(values(last), values(layer(x).slice(1, 8, 9)));
}

TEST(Attention, ATT_04_AppendingCopiesNoHistory) {
  const GroupedQueryAttention<Tensor> layer =
      layer_of(kCases[2], random_weights(kCases[2], 1, DType::kF32));
  const Tensor x = random_tensor({2, 2000, 16}, 9, DType::kF32),
               one = random_tensor({2, 1, 16}, 8, DType::kF32);
  AttentionCache<Tensor> cache(4000);
  (void)layer(x, cache);
  const void* place = cache.view().k_pages;
  const std::int64_t before = allocated_bytes();
  reset_peak_allocated_bytes();
  for (int i = 0; i < 100; ++i) (void)layer(one, cache, Sees::kCausal);
  EXPECT_EQ(cache.view().k_pages, place);
  EXPECT_EQ(cache.length(), 2100);
  EXPECT_EQ(allocated_bytes(), before);
  EXPECT_LT(peak_allocated_bytes() - before, 8192);  // the history is 268,800 bytes
}

/// A cleared cache reads the next sequences as a new one does.
template <class Value>
void expect_like_new(const GroupedQueryAttention<Value>& layer) {
  const auto tokens = [&](std::int64_t T, std::uint64_t seed) {
    return Value(random_tensor({2, T, 16}, seed, DType::kF32));
  };
  const auto read = [&](AttentionCache<Value>& cache) {
    std::vector<double> out;
    for (const std::int64_t T : {90, 1, 3}) {
      const std::vector<double> part = values(Var(layer(tokens(T, 9), cache)).value());
      out.insert(out.end(), part.begin(), part.end());
    }
    return out;
  };
  AttentionCache<Value> cache(100), fresh(100);
  (void)layer(tokens(100, 7), cache);
  cache.clear();
  EXPECT_EQ(cache.length(), 0);
  EXPECT_EQ(cache.capacity(), 100);
  EXPECT_EQ(read(cache), read(fresh));
}

TEST(Attention, ATT_04_AClearedCacheIsLikeANewOne) {
  const AttentionWeights<Tensor> weights = random_weights(kCases[2], 1, DType::kF32);
  const GroupedQueryAttention<Tensor> layer = layer_of(kCases[2], weights);
  expect_like_new(layer);
  expect_like_new(layer_of(kCases[2], as_vars(weights)));
  // Its room is the old one.
  AttentionCache<Tensor> cache(40);
  const Tensor x = random_tensor({2, 40, 16}, 9, DType::kF32);
  (void)layer(x, cache);
  const void* place = cache.view().k_pages;
  cache.clear();
  (void)layer(x, cache);
  EXPECT_EQ(cache.view().k_pages, place);
}

TEST(Attention, ATT_05_AStepTouchesOneRowAndNotTheWhole) {
  // What examples/attention_timing measures, as memory: the recompute makes every row again.
  const GroupedQueryAttention<Tensor> layer =
      layer_of(kCases[0], random_weights(kCases[0], 1, DType::kF32));
  const Tensor x = random_tensor({2, 1024, 12}, 9, DType::kF32);
  AttentionCache<Tensor> cache(1024);
  (void)layer(x.slice(1, 0, 1023), cache);
  const auto peak = [](const auto& call) {
    const std::int64_t before = allocated_bytes();
    reset_peak_allocated_bytes();
    (void)call();
    return peak_allocated_bytes() - before;
  };
  const std::int64_t step = peak([&] { return layer(x.slice(1, 1023, 1024), cache); });
  const std::int64_t recompute = peak([&] { return layer(x); });
  EXPECT_LT(30 * step, recompute);
}

/// Three causal layers with residuals: what one layer writes, the next reads.
template <class Run>
Tensor stacked(const std::vector<GroupedQueryAttention<Tensor>>& layers, Tensor x, const Run& run) {
  for (std::size_t i = 0; i < layers.size(); ++i) x = add(x, run(i, x));
  return x;
}

TEST(Attention, ATT_06_B8_T28_SeveralLayersWithACacheEqualTheCausalRecompute) {
  // Chunks see all earlier chunks, and no prompt token sees a later one.
  std::vector<GroupedQueryAttention<Tensor>> layers;
  for (const std::uint64_t seed : {1u, 5u, 9u})
    layers.push_back(layer_of(kCases[2], random_weights(kCases[2], seed, DType::kF32)));
  const Tensor x = random_tensor({2, 70, 16}, 13, DType::kF32);
  const Tensor whole = stacked(
      layers, x, [&](std::size_t i, const Tensor& in) { return layers[i](in, Sees::kCausal); });
  for (const std::int64_t chunk : {1, 16, 33}) {
    std::vector<AttentionCache<Tensor>> caches(3, AttentionCache<Tensor>(70));
    for (std::int64_t at = 0; at < 70; at += chunk) {
      const std::int64_t end = std::min<std::int64_t>(at + chunk, 70);
      const Tensor part = stacked(
          layers, x.slice(1, at, end),
          [&](std::size_t i, const Tensor& in) { return layers[i](in, caches[i], Sees::kCausal); });
      EXPECT_EQ(values(part), values(whole.slice(1, at, end))) << "chunks of " << chunk;
    }
  }
}

TEST(Attention, ATT_06_ALaterTokenChangesNothingBefore) {
  const GroupedQueryAttention<Tensor> layer =
      layer_of(kCases[2], random_weights(kCases[2], 1, DType::kF64));
  const Tensor x = random_tensor({1, 6, 16}, 9);
  Tensor moved = x.to(DType::kF64);
  moved.mutable_data<double>()[5 * 16] += 1;
  EXPECT_EQ(values(layer(x, Sees::kCausal).slice(1, 0, 5)),
            values(layer(moved, Sees::kCausal).slice(1, 0, 5)));
  EXPECT_NE(values(layer(x).slice(1, 0, 5)), values(layer(moved).slice(1, 0, 5)));
}

TEST(Attention, ATT_07_GradientsOfInputsAndWeights) {
  for (const Sizes& s : {Sizes{"", 6, 1, 1}, {"", 6, 3, 3}, {"", 8, 4, 2}}) {
    for (const Sees sees : {Sees::kAll, Sees::kCausal}) {
      const AttentionWeights<Tensor> w = random_weights(s, 1, DType::kF64);
      const auto whole = [&](const std::vector<Var>& in) {
        return layer_of<Var>(s, {in[1], in[2], in[3], in[4]})(in[0], sees);
      };
      const auto in_steps = [&](const std::vector<Var>& in) {
        const auto layer = layer_of<Var>(s, {in[1], in[2], in[3], in[4]});
        AttentionCache<Var> cache(4);
        std::vector<Var> parts;
        for (const auto& [begin, end] : {std::pair{0, 2}, {2, 3}, {3, 4}})
          parts.push_back(layer(slice(in[0], 1, begin, end), cache, sees));
        return cat(parts, 1);
      };
      const std::vector<Tensor> inputs = {random_tensor({2, 4, s.D}, 7), w.q, w.k, w.v, w.output};
      test::expect_tape_gradients(whole, inputs);
      test::expect_tape_gradients(in_steps, inputs);
    }
  }
}

TEST(Attention, ATT_07_ThreadsDoNotChangeABit) {
  const Sizes s = {"", 64, 4, 2};
  const AttentionWeights<Tensor> weights = random_weights(s, 1, DType::kF32);
  const Tensor x = random_tensor({2, 150, 64}, 5, DType::kF32),
               dout = random_tensor({2, 150, 64}, 6, DType::kF32);
  std::vector<std::vector<double>> expected;
  for (const int threads : {1, 2, 7}) {
    set_threads(threads);
    const Var input(x, Needs::kGradient);
    const GroupedQueryAttention<Var> layer = layer_of(s, as_vars(weights));
    const Var out = layer(input, Sees::kCausal);
    backward(out, dout);
    const AttentionWeights<Var>& w = layer.weights();
    std::vector<std::vector<double>> found = {values(out.value())};
    for (const Var* var : {&input, &w.q, &w.k, &w.v, &w.output})
      found.push_back(values(var->gradient()));
    if (expected.empty()) expected = found;
    EXPECT_EQ(found, expected) << threads;
  }
  set_threads(1);
}

TEST(Attention, ATT_07_TrainingLowersALoss) {
  // The layer learns to give each token the mean of those before it.
  Rng rng(3);
  GroupedQueryAttention<Var> layer(8, 2, 1, rng);
  const Tensor x = random_tensor({4, 6, 8}, 4, DType::kF32);
  Tensor target = x.to(DType::kF32);
  for (std::int64_t b = 0; b < 4; ++b)
    for (std::int64_t t = 1; t < 6; ++t)
      for (std::int64_t d = 0; d < 8; ++d) {
        float* at = target.mutable_data<float>() + (b * 6 + t) * 8 + d;
        *at = at[-8] + (*at - at[-8]) / static_cast<float>(t + 1);
      }
  const auto loss_of = [&] {
    const Var off = sub(layer(Var(x), Sees::kCausal), Var(target));
    return mean(mul(off, off));
  };
  const double before = values(loss_of().value())[0];
  for (int step = 0; step < 60; ++step) {
    backward(loss_of());
    const AttentionWeights<Var>& w = layer.weights();
    const auto moved = [](const Var& weight) {
      return Var(sub(weight.value(), mul(weight.gradient(), 0.5)), Needs::kGradient);
    };
    layer = GroupedQueryAttention<Var>(2, 1, {moved(w.q), moved(w.k), moved(w.v), moved(w.output)});
  }
  EXPECT_LT(values(loss_of().value())[0], 0.3 * before);
}

TEST(Attention, ATT_08_WeightsAreOutByInAndStartUniform) {
  Rng rng(1), again(1);
  const GroupedQueryAttention<Tensor> layer(64, 4, 2, rng);
  const AttentionWeights<Tensor>& w = layer.weights();
  EXPECT_EQ(w.q.shape(), (Shape{64, 64}));
  EXPECT_EQ(w.k.shape(), (Shape{32, 64}));
  EXPECT_EQ(w.v.shape(), (Shape{32, 64}));
  EXPECT_EQ(w.output.shape(), (Shape{64, 64}));
  double largest = 0, squares = 0;
  for (const double x : values(w.k)) {
    largest = std::max(largest, std::abs(x));
    squares += x * x;
  }
  EXPECT_LE(largest, 1.0 / 8);
  EXPECT_NEAR(squares / 2048, 1.0 / 64 / 3, 0.1 / 64 / 3);
  const auto vars = attention_init<Var>(64, 4, 2, again);
  EXPECT_EQ(values(vars.output.value()), values(w.output));
  EXPECT_TRUE(vars.q.needs_gradient());
}

TEST(Attention, NoSequencesAndNoTokens) {
  const GroupedQueryAttention<Tensor> layer =
      layer_of(kCases[2], random_weights(kCases[2], 1, DType::kF32));
  EXPECT_EQ(layer(Tensor::zeros({0, 5, 16}, DType::kF32)).shape(), (Shape{0, 5, 16}));
  EXPECT_EQ(layer(Tensor::zeros({2, 0, 16}, DType::kF32)).shape(), (Shape{2, 0, 16}));
}

TEST(Attention, Errors) {
  Rng rng(1);
  using Grouped = GroupedQueryAttention<Tensor>;
  for (const auto& [D, H, G] :
       {std::array{12, 5, 5}, {12, 4, 3}, {12, 0, 1}, {12, 4, 0}, {0, 1, 1}})
    EXPECT_THROW(Grouped(D, H, G, rng), ArgumentError) << D << " " << H << " " << G;
  AttentionWeights<Tensor> wrong = random_weights(kCases[2], 1, DType::kF32);
  wrong.v = Tensor::zeros({16, 16}, DType::kF32);
  EXPECT_THAT([&] { Grouped(4, 2, wrong); },
              ThrowsMessage<ArgumentError>(HasSubstr("the weight v has shape [16, 16]")));
  const Grouped layer(16, 4, 2, rng);
  EXPECT_THROW((void)layer(Tensor::zeros({2, 3, 15}, DType::kF32)), ArgumentError);
  EXPECT_THROW((void)layer(Tensor::zeros({3, 16}, DType::kF32)), ArgumentError);
  EXPECT_THROW((void)layer(Tensor::zeros({2, 3, 16}, DType::kF64)), ArgumentError);
  EXPECT_THROW(AttentionCache<Tensor>(0), ArgumentError);
  EXPECT_THROW(AttentionCache<Var>(-1), ArgumentError);
  AttentionCache<Tensor> cache(4);
  EXPECT_THROW((void)cache.view(), ArgumentError);
  (void)layer(Tensor::zeros({2, 3, 16}, DType::kF32), cache);
  EXPECT_THAT(
      [&] {
        (void)layer(Tensor::zeros({2, 2, 16}, DType::kF32), cache);
      },
      ThrowsMessage<ArgumentError>(
          "AttentionCache: holds 3 tokens of at most 4; 2 more do not fit"));
  EXPECT_THROW((void)layer(Tensor::zeros({3, 1, 16}, DType::kF32), cache), ArgumentError);
  EXPECT_EQ(cache.length(), 3);
  EXPECT_NO_THROW((void)layer(Tensor::zeros({2, 1, 16}, DType::kF32), cache));
}

}  // namespace
}  // namespace quire::nn

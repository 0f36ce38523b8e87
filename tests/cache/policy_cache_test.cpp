#include "quire/cache/policy_cache.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <algorithm>
#include <cmath>
#include <iterator>
#include <limits>
#include <map>

#include "quire/base/thread_pool.h"
#include "quire/cache/contiguous.h"
#include "quire/cache/policies/policies.h"
#include "quire/ops/attention/attention_mass.h"
#include "tests/cache/steps.h"

namespace quire::cache {
namespace {

using test::feed;
using test::layer_of;
using test::message_of;
using test::part;
using test::random_step;
using test::same_bits;
using test::Step;

constexpr DType kStored[] = {DType::kF32, DType::kF16, DType::kBF16,
                             DType::kI8,  DType::kI4,  DType::kI4H};
constexpr DType kTwo[] = {DType::kF32, DType::kI8};

std::vector<LayerSpec> some_layers() {
  return {layer_of(2, 2, 16, 16), layer_of(4, 2, 20, 16), layer_of(3, 3, 32, 32)};
}

TEST(PolicyCache, a_budget_that_covers_the_context_gives_the_bits_of_a_contiguous_cache) {
  const std::vector<LayerSpec> layers = some_layers();
  for (const std::string& name : policy_names()) {
    for (const DType kv : kTwo) {
      Rng rng(1);
      const Step all = random_step(rng, layers, 320);
      const Budget budget = kv == DType::kF32 ? Budget{.tokens = 1000} : Budget{.fraction = 1};
      const auto cache = make_policy_cache(name, budget, layers, 320, kv);
      ContiguousCache exact(layers, 320,
                            name == "int8"      ? DType::kI8H
                            : name == "int8row" ? DType::kI8
                            : name == "int4"    ? DType::kI4
                            : name == "int4h"   ? DType::kI4H
                                                : kv);
      for (const auto& [begin, end] : {std::pair{0, 170}, {170, 300}, {300, 301}, {301, 320}}) {
        if (begin == 300) cache->end_reading();
        const Step step = part(all, begin, end);
        ASSERT_TRUE(same_bits(feed(*cache, step), feed(exact, step))) << name << " " << begin;
      }
    }
  }
}

/// Selects everything, whatever the budget: the way through tables and kept stores, not round them.
class Everything : public Policy {
 public:
  explicit Everything(Decide decide) : decide_(decide) {}
  std::string_view name() const override { return "everything"; }
  Decide decide() const override { return decide_; }
  void score(const HeadContext& /*head*/, std::span<float> /*score_S*/) const override {}
  std::vector<std::int32_t> select(const HeadContext& head,
                                   std::span<const float> score_S) const override {
    return best_positions(score_S, head.tokens, 0, 0);
  }

 private:
  Decide decide_;
};

TEST(PolicyCache, what_is_selected_is_visited_in_order_so_that_all_of_it_gives_the_ordinary_bits) {
  const std::vector<LayerSpec> layers = some_layers();
  for (const Decide decide : {Decide::kOnce, Decide::kEachStep}) {
    for (const DType kv : kStored) {
      Rng rng(2);
      const Step all = random_step(rng, layers, 330);
      PolicyCache cache(layers, std::make_unique<Everything>(decide), {.tokens = 1}, 330, kv);
      ContiguousCache exact(layers, 330, kv);
      for (const auto& [begin, end] : {std::pair{0, 241}, {241, 242}, {242, 265}, {265, 330}}) {
        const Step step = part(all, begin, end);
        ASSERT_TRUE(same_bits(feed(cache, step), feed(exact, step))) << begin;
        if (begin == 0) cache.end_reading();
      }
    }
  }
}

/// Selects the same positions for every head, with the same bias each.
class Fixed : public Policy {
 public:
  Fixed(Decide decide, std::vector<std::int32_t> at, float bias = 0, std::int64_t dense_layer = -1)
      : decide_(decide), at_(std::move(at)), bias_(bias), dense_layer_(dense_layer) {}
  std::string_view name() const override { return "fixed"; }
  Decide decide() const override { return decide_; }
  bool is_dense(std::int64_t layer) const override { return layer == dense_layer_; }
  void score(const HeadContext& /*head*/, std::span<float> /*score_S*/) const override {}
  std::vector<std::int32_t> select(const HeadContext& /*head*/,
                                   std::span<const float> /*score_S*/) const override {
    return at_;
  }
  bool bias(const HeadContext& /*head*/, std::span<const std::int32_t> /*selected*/,
            std::span<float> bias) const override {
    std::fill(bias.begin(), bias.end(), bias_);
    return bias_ != 0;
  }
  std::int64_t index_bytes(std::int64_t layer) const override { return 1000 + layer; }

 private:
  Decide decide_;
  std::vector<std::int32_t> at_;
  float bias_;
  std::int64_t dense_layer_;
};

std::unique_ptr<PolicyCache> fixed_cache(const std::vector<LayerSpec>& layers, Decide decide,
                                         std::vector<std::int32_t> at, std::int64_t capacity,
                                         DType kv = DType::kF32, float bias = 0,
                                         Measure measure = Measure::kNothing) {
  return std::make_unique<PolicyCache>(layers, std::make_unique<Fixed>(decide, std::move(at), bias),
                                       Budget{.tokens = 1}, capacity, kv, measure);
}

/// Attention of the last N queries of `all` over the keys that are allowed (and, from `context` on,
/// all), as one masked call; `bias` is added to the allowed ones of the context.
std::vector<float> masked(const Step& all, const std::vector<LayerSpec>& layers, std::int64_t N,
                          const std::vector<std::int32_t>& allowed, std::int64_t context,
                          float bias = 0) {
  std::vector<float> out;
  const std::int64_t S = all.N();
  for (std::size_t i = 0; i < layers.size(); ++i) {
    std::vector<float> mask(static_cast<std::size_t>(N * S), -INFINITY);
    for (std::int64_t n = 0; n < N; ++n) {
      for (const std::int32_t at : allowed) mask[static_cast<std::size_t>(n * S + at)] = bias;
      for (std::int64_t s = context; s <= S - N + n; ++s)
        mask[static_cast<std::size_t>(n * S + s)] = 0;
    }
    AttentionSpec spec = layers[i].attention;
    spec.mask_TS = mask.data();
    spec.mask_stride = S;
    KvView view;
    view.k_pages = all.k[i].data<float>();
    view.v_pages = all.v[i].data<float>();
    view.P = 1;
    view.Z = S;
    view.G = layers[i].G;
    view.K = layers[i].K;
    view.U = layers[i].U;
    view.k_strides = {0, view.G * view.K, view.K};
    view.v_strides = {0, view.G * view.U, view.U};
    view.length_BG = &S;
    const std::int32_t start[] = {0, static_cast<std::int32_t>(N)};
    const Tensor o = attention(all.q[i].slice(0, S - N, S),
                               Tensor::of(std::span<const std::int32_t>(start), {2}), view, spec)
                         .out_NHU;
    out.insert(out.end(), o.data<float>(), o.data<float>() + o.elements());
  }
  return out;
}

double largest_difference(const std::vector<float>& a, const std::vector<float>& b) {
  if (a.size() != b.size()) return INFINITY;
  double worst = 0;
  for (std::size_t i = 0; i < a.size(); ++i) {
    const double difference = std::abs(double{a[i]} - double{b[i]});
    if (!(difference <= worst)) worst = difference;  // a NaN wins
  }
  return worst;
}

TEST(PolicyCache, a_selection_is_attention_with_the_rest_masked_and_a_bias_is_added_to_scores) {
  const std::vector<LayerSpec> layers = some_layers();
  const std::vector<std::int32_t> at{0, 3, 4, 17, 120, 299};
  for (const Decide decide : {Decide::kOnce, Decide::kEachStep}) {
    for (const float bias : {0.0f, std::log(3.0f)}) {
      Rng rng(3);
      const Step all = random_step(rng, layers, 330);
      const auto cache = fixed_cache(layers, decide, at, 330, DType::kF32, bias);
      feed(*cache, part(all, 0, 300));
      cache->end_reading();
      feed(*cache, part(all, 300, 311));
      EXPECT_LT(largest_difference(feed(*cache, part(all, 311, 330)),
                                   masked(all, layers, 19, at, 300, bias)),
                2e-6);
      EXPECT_EQ(cache->selected(2, 1), at);
      EXPECT_EQ(cache->context(), 300);
      EXPECT_EQ(cache->length(), 330);
    }
  }
}

/// Selects every second key, and lets the others stand for themselves.
class Standing : public Policy {
 public:
  std::string_view name() const override { return "standing"; }
  Decide decide() const override { return Decide::kEachStep; }
  void build(const HeadContext& head) override {
    Rows& rows = rows_[{head.layer, head.g}];
    rows.k.assign(head.k_SK.begin(), head.k_SK.end());
    rows.v.assign(head.v_SU.begin(), head.v_SU.end());
  }
  void score(const HeadContext& /*head*/, std::span<float> /*score_S*/) const override {}
  std::vector<std::int32_t> select(const HeadContext& head,
                                   std::span<const float> /*score_S*/) const override {
    std::vector<std::int32_t> out;
    for (std::int32_t s = static_cast<std::int32_t>(head.g % 2); s < head.tokens; s += 2)
      out.push_back(s);
    return out;
  }
  StandIns stand_ins(const HeadContext& head,
                     std::span<const std::int32_t> selected) const override {
    const Rows& rows = rows_.at({head.layer, head.g});
    StandIns out;
    for (std::int32_t s = 0; s < head.tokens; ++s) {
      if (std::binary_search(selected.begin(), selected.end(), s)) continue;
      // Every third of them twice, with half its weight each.
      for (int copies = s % 3 == 0 ? 2 : 1, i = 0; i < copies; ++i) {
        const auto k = rows.k.begin() + s * head.spec->K, v = rows.v.begin() + s * head.spec->U;
        out.k_EK.insert(out.k_EK.end(), k, k + head.spec->K);
        out.v_EU.insert(out.v_EU.end(), v, v + head.spec->U);
        out.bias_E.push_back(-std::log(static_cast<float>(copies)));
      }
    }
    if (too_few) out.v_EU.pop_back();
    return out;
  }
  bool too_few = false;

 private:
  struct Rows {
    std::vector<float> k, v;
  };
  std::map<std::pair<std::int64_t, std::int64_t>, Rows> rows_;
};

TEST(PolicyCache, keys_that_stand_for_others_are_attended_to_beside_the_selected_ones) {
  const std::vector<LayerSpec> layers = some_layers();
  Rng rng(12);
  const Step all = random_step(rng, layers, 330);
  PolicyCache cache(layers, std::make_unique<Standing>(), {.tokens = 1}, 330, DType::kF32);
  ContiguousCache exact(layers, 330, DType::kF32);
  for (KvCache* of : {static_cast<KvCache*>(&cache), static_cast<KvCache*>(&exact)}) {
    feed(*of, part(all, 0, 301));
    of->end_reading();
  }
  for (const auto& [begin, end] : {std::pair{301, 302}, {302, 330}}) {
    const auto a = feed(cache, part(all, begin, end)), b = feed(exact, part(all, begin, end));
    EXPECT_LT(largest_difference(a, b), 2e-6);
  }
  auto policy = std::make_unique<Standing>();
  policy->too_few = true;
  PolicyCache wrong(layers, std::move(policy), {.tokens = 1}, 330, DType::kF32);
  feed(wrong, part(all, 0, 301));
  wrong.end_reading();
  EXPECT_THAT(message_of<ArgumentError>([&] { feed(wrong, part(all, 301, 302)); }),
              testing::HasSubstr("the policy standing has"));
}

TEST(PolicyCache, reading_is_exact_and_what_comes_after_it_is_always_attended) {
  const std::vector<LayerSpec> layers = some_layers();
  for (const char* name : {"window", "oracle", "quest", "h2o", "snapkv", "expected_attention"}) {
    Rng rng(4);
    const Step all = random_step(rng, layers, 240);
    const auto cache = make_policy_cache(name, {.tokens = 66}, layers, 240, DType::kF16);
    ContiguousCache exact(layers, 240, DType::kF16);
    for (const auto& [begin, end] : {std::pair{0, 90}, {90, 91}, {91, 200}}) {
      const Step step = part(all, begin, end);
      ASSERT_TRUE(same_bits(feed(*cache, step), feed(exact, step))) << name;
    }
    cache->end_reading();
    const Step rest = part(all, 200, 240);
    EXPECT_FALSE(same_bits(feed(*cache, rest), feed(exact, rest))) << name;
    EXPECT_EQ(cache->report().tokens, 240);
    EXPECT_EQ(dynamic_cast<PolicyCache&>(*cache).budget_tokens(), 66);
  }
}

TEST(PolicyCache, each_query_of_a_step_selects_for_itself_whatever_the_step_and_the_threads) {
  const std::vector<LayerSpec> layers = some_layers();
  for (const std::string& name : policy_names()) {
    Rng rng(5);
    const Step all = random_step(rng, layers, 130);
    std::vector<float> expected;
    for (const int threads : {1, 2}) {
      set_threads(threads);
      for (const std::int64_t step : {30, 7, 1}) {
        const auto cache = make_policy_cache(name, {.tokens = 70}, layers, 130, DType::kF32);
        feed(*cache, part(all, 0, 100));
        cache->end_reading();
        std::vector<std::vector<float>> by_layer(layers.size());
        for (std::int64_t at = 100; at < 130; at += step) {
          const auto out =
              test::feed_layers(*cache, part(all, at, std::min<std::int64_t>(at + step, 130)));
          for (std::size_t i = 0; i < out.size(); ++i)
            by_layer[i].insert(by_layer[i].end(), out[i].data<float>(),
                               out[i].data<float>() + out[i].elements());
        }
        std::vector<float> rows;
        for (const auto& of : by_layer) rows.insert(rows.end(), of.begin(), of.end());
        if (expected.empty()) expected = rows;
        ASSERT_TRUE(same_bits(rows, expected)) << name << ", steps of " << step;
      }
    }
  }
  set_threads(2);
}

TEST(PolicyCache, a_nan_in_what_is_left_out_reaches_nothing) {
  const std::vector<LayerSpec> layers = some_layers();
  for (const Decide decide : {Decide::kOnce, Decide::kEachStep}) {
    for (const DType kv : {DType::kF32, DType::kF16}) {
      std::vector<std::vector<float>> outs;
      for (const float poison : {0.0f, std::numeric_limits<float>::quiet_NaN()}) {
        Rng rng(6);
        Step all = random_step(rng, layers, 120);
        for (std::size_t i = 0; i < layers.size(); ++i) {
          for (std::int64_t s = 10; s < 90; ++s) {
            for (Tensor* x : {&all.k[i], &all.v[i]}) {
              const std::int64_t row = x->size(1) * x->size(2);
              std::fill_n(x->mutable_data<float>() + s * row, row, poison);
            }
          }
        }
        const auto cache = fixed_cache(layers, decide, {0, 1, 9, 90, 99}, 120, kv);
        feed(*cache, part(all, 0, 100));
        cache->end_reading();
        outs.push_back(feed(*cache, part(all, 100, 120)));
      }
      EXPECT_TRUE(same_bits(outs[0], outs[1])) << to_string(kv);
      EXPECT_FALSE(std::isnan(outs[1][0]));
    }
  }
}

TEST(PolicyCache, counts_every_byte_that_it_reads_and_keeps) {
  // A token takes G · (K + U) numbers of 2 bytes: 2 · 32 · 2 = 128 and 3 · 96 · 2 = 576.
  const std::vector<LayerSpec> layers = {layer_of(4, 2, 16, 16), layer_of(3, 3, 64, 32)};
  Rng rng(7);
  const Step all = random_step(rng, layers, 60);
  const std::vector<std::int32_t> at{0, 1, 30};

  const auto evicts = fixed_cache(layers, Decide::kOnce, at, 60, DType::kF16);
  feed(*evicts, part(all, 0, 50));
  EXPECT_EQ(evicts->report().bytes_read, 50 * 704);
  EXPECT_EQ(evicts->report().bytes_stored, 50 * 704);
  evicts->end_reading();
  EXPECT_EQ(evicts->report().bytes_stored, 3 * 704);
  EXPECT_EQ(evicts->report().bytes_read, 3 * 704);
  feed(*evicts, part(all, 50, 54));
  EXPECT_EQ(evicts->report().bytes_stored, 7 * 704);
  EXPECT_EQ(evicts->report().bytes_read, 7 * 704);
  EXPECT_EQ(evicts->bytes(), 7 * 704);
  EXPECT_EQ(evicts->report().tokens, 54);

  // An index of 1000 bytes and one of 1001, read at each step; everything else stays.
  const auto selects = fixed_cache(layers, Decide::kEachStep, at, 60, DType::kF16);
  feed(*selects, part(all, 0, 50));
  selects->end_reading();
  EXPECT_EQ(selects->report().bytes_stored, 50 * 704 + 2001);
  EXPECT_EQ(selects->report().bytes_read, 50 * 704 + 2001);  // no step has read less yet
  feed(*selects, part(all, 50, 54));
  EXPECT_EQ(selects->report().bytes_stored, 54 * 704 + 2001);
  EXPECT_EQ(selects->report().bytes_read, 7 * 704 + 2001);

  // A layer left whole: 54 · 576; biases: a float for each kept key.
  PolicyCache dense(layers, std::make_unique<Fixed>(Decide::kOnce, at, 1.0f, 1), {.tokens = 1}, 60,
                    DType::kF16);
  feed(dense, part(all, 0, 50));
  dense.end_reading();
  feed(dense, part(all, 50, 54));
  EXPECT_EQ(dense.report().bytes_stored, 7 * 128 + 3 * 2 * 4 + 54 * 576);
  EXPECT_EQ(dense.report().bytes_read, 7 * 128 + 3 * 2 * 4 + 54 * 576);

  // i8: a byte a number, and two scales of 4 bytes for each head: 2 · 40 + 3 · 104.
  const auto small = fixed_cache(layers, Decide::kOnce, at, 60, DType::kI8);
  feed(*small, part(all, 0, 50));
  small->end_reading();
  EXPECT_EQ(small->report().bytes_stored, 3 * (2 * 40 + 3 * 104));
}

TEST(PolicyCache, measures_the_attention_that_its_keys_received) {
  const std::vector<LayerSpec> layers = {layer_of(4, 2, 16, 16), layer_of(6, 2, 32, 16)};
  const std::vector<std::int32_t> at{2, 3, 11, 39};
  for (const Decide decide : {Decide::kOnce, Decide::kEachStep}) {
    for (const float bias : {0.0f, 2.0f}) {
      Rng rng(8);
      const Step all = random_step(rng, layers, 44);
      const auto cache = fixed_cache(layers, decide, at, 44, DType::kF32, bias, Measure::kMass);
      ContiguousCache exact(layers, 44, DType::kF32);
      feed(exact, all);
      feed(*cache, part(all, 0, 40));
      EXPECT_EQ(cache->report().mass, 1);
      cache->end_reading();
      feed(*cache, part(all, 40, 44));
      double expected = 0;
      for (std::size_t i = 0; i < layers.size(); ++i) {
        const Tensor q_1HK = all.q[i].slice(0, 43, 44).contiguous_copy();
        const std::int32_t start[] = {0, 1};
        const Tensor start_J = Tensor::of(std::span<const std::int32_t>(start), {2});
        const KvView view = exact.view(static_cast<std::int64_t>(i));
        const AttentionResult all_keys = attention(q_1HK, start_J, view, layers[i].attention);
        const Tensor mass_PZG =
            attention_mass(q_1HK, start_J, view, layers[i].attention, all_keys.lse_NH);
        for (const std::int64_t s : {2, 3, 11, 39, 40, 41, 42, 43})
          for (std::int64_t g = 0; g < 2; ++g)
            expected +=
                double{mass_PZG.data<float>()[s * 2 + g]} / static_cast<double>(layers[i].H) / 2;
      }
      EXPECT_NEAR(cache->report().mass, expected, 1e-5);
      EXPECT_LT(expected, 0.9);
      // What is kept for measuring counts nowhere.
      EXPECT_EQ(cache->report().bytes_stored,
                fixed_cache(layers, decide, at, 44)->bytes_per_token() *
                        (decide == Decide::kOnce ? 8 : 44) +
                    (decide == Decide::kOnce ? (bias == 0 ? 0 : 4 * 4 * 4) : 2001));
    }
  }
}

/// Keeps what it was told.
class Curious : public Policy {
 public:
  explicit Curious(const Observe& observe) : observe_(observe) {}
  std::string_view name() const override { return "curious"; }
  Observe observe() const override { return observe_; }
  void score(const HeadContext& head, std::span<float> score_S) const override {
    std::fill(score_S.begin(), score_S.end(), 0.0f);
    const auto copy = [](auto from) { return std::vector<double>(from.begin(), from.end()); };
    reading.push_back(copy(head.reading_mass_S));
    window.push_back(copy(head.window_mass_S));
    mean.push_back(copy(head.mean_RK));
    cov.push_back(copy(head.cov_RKK));
    keys.push_back(copy(head.k_SK));
    values.push_back(copy(head.v_SU));
  }
  mutable std::vector<std::vector<double>> reading, window, mean, cov, keys, values;

 private:
  Observe observe_;
};

TEST(PolicyCache, tells_a_policy_what_it_asks_for) {
  constexpr std::int64_t S = 100, G = 2, R = 2, H = 4, K = 16, kFrom = 4, kWindow = 9;
  LayerSpec layer = layer_of(H, G, K, 8);
  layer.rope = {.pairing = RopePairing::kInterleaved, .rotary = 12, .theta = 100};
  Rng rng(9);
  const Step plain = random_step(rng, {layer}, S);
  Step turned = plain;
  turned.q[0] = plain.q[0].to(DType::kF32);
  RopeTable(layer.rope).apply(turned.q[0], 0);
  const Observe observe{
      .reading_mass = true, .window = kWindow, .moments = true, .moments_from = kFrom};
  PolicyCache reader({layer}, std::make_unique<Curious>(observe), {.tokens = 1}, S, DType::kF32);
  for (std::int64_t at = 0; at < S; at += 17)
    feed(reader, part(turned, at, std::min<std::int64_t>(S, at + 17)));
  reader.end_reading();
  const auto& told = dynamic_cast<const Curious&>(reader.policy());

  const float* q = turned.q[0].data<float>();
  const float* k = plain.k[0].data<float>();
  for (std::int64_t g = 0; g < G; ++g) {
    std::vector<double> reading(S), window(S);
    for (std::int64_t n = 0; n < S; ++n) {
      for (std::int64_t h = g * R; h < (g + 1) * R; ++h) {
        std::vector<double> p;
        double sum = 0;
        for (std::int64_t s = 0; s <= n; ++s) {
          double dot = 0;
          for (std::int64_t i = 0; i < K; ++i)
            dot += double{q[(n * H + h) * K + i]} * double{k[(s * G + g) * K + i]};
          p.push_back(std::exp(dot / std::sqrt(double{K})));
          sum += p.back();
        }
        for (std::size_t s = 0; s < p.size(); ++s) {
          reading[s] += p[s] / sum;
          if (n >= S - kWindow) window[s] += p[s] / sum;
        }
      }
    }
    const auto head = static_cast<std::size_t>(g);
    for (std::size_t s = 0; s < S; ++s) {
      EXPECT_NEAR(told.reading[head][s], reading[s], 1e-5);
      EXPECT_NEAR(told.window[head][s], window[s], 1e-5);
      EXPECT_EQ(told.keys[head][s * K + 3], double{k[(s * G + head) * K + 3]});
      EXPECT_EQ(told.values[head][s * 8 + 5],
                double{plain.v[0].data<float>()[(s * G + head) * 8 + 5]});
    }
    for (std::int64_t r = 0; r < R; ++r) {
      const auto x = [&](std::int64_t n, std::int64_t i) {
        return double{plain.q[0].data<float>()[(n * H + g * R + r) * K + i]};
      };
      std::vector<double> mean(K);
      for (std::int64_t n = kFrom; n < S; ++n)
        for (std::int64_t i = 0; i < K; ++i)
          mean[static_cast<std::size_t>(i)] += x(n, i) / static_cast<double>(S - kFrom);
      for (std::int64_t i = 0; i < K; ++i) {
        EXPECT_NEAR(told.mean[head][static_cast<std::size_t>(r * K + i)],
                    mean[static_cast<std::size_t>(i)], 1e-6);
        for (std::int64_t j = 0; j < K; ++j) {
          double cov = 0;
          for (std::int64_t n = kFrom; n < S; ++n)
            cov += (x(n, i) - mean[static_cast<std::size_t>(i)]) *
                   (x(n, j) - mean[static_cast<std::size_t>(j)]) / static_cast<double>(S - kFrom);
          EXPECT_NEAR(told.cov[head][static_cast<std::size_t>((r * K + i) * K + j)], cov, 1e-6);
        }
      }
    }
  }
}

TEST(PolicyCache, one_reading_serves_many_policies) {
  const std::vector<LayerSpec> layers = some_layers();
  for (const DType kv : kTwo) {
    Rng rng(10);
    const Step all = random_step(rng, layers, 150);
    PolicyCache reader(layers, all_observing_policy(), {}, 150, kv);
    feed(reader, part(all, 0, 77));
    feed(reader, part(all, 77, 140));
    for (const std::string& name : policy_names()) {
      if (keeps_everything(name)) continue;  // contiguous caches
      const auto cache = reader.with(make_policy(name), {.tokens = 80});
      const auto alone = make_policy_cache(name, {.tokens = 80}, layers, 150, kv);
      feed(*alone, part(all, 0, 77));
      feed(*alone, part(all, 77, 140));
      cache->end_reading();
      alone->end_reading();
      EXPECT_EQ(cache->selected(2, 2), dynamic_cast<PolicyCache&>(*alone).selected(2, 2));
      EXPECT_TRUE(same_bits(feed(*cache, part(all, 140, 150)), feed(*alone, part(all, 140, 150))))
          << name;
    }
    EXPECT_EQ(reader.length(), 140);
    EXPECT_EQ(reader.context(), -1);
  }
  PolicyCache reader(layers, full_policy(), {}, 10, DType::kF32);
  EXPECT_THAT(message_of<ArgumentError>([&] { reader.with(make_policy("snapkv"), {}); }),
              testing::HasSubstr("more than the reading was observed for"));
  PolicyCache bf16(layers, full_policy(), {}, 10, DType::kBF16),
      fewer({layers[0]}, full_policy(), {}, 10, DType::kF32),
      small(layers, full_policy(), {}, 2, DType::kF32);
  Rng rng(11);
  feed(reader, random_step(rng, layers, 3));
  for (PolicyCache* cache : {&bf16, &fewer, &small, &reader})
    EXPECT_THROW(cache->take_over(reader), ArgumentError);
  reader.end_reading();
  EXPECT_THAT(message_of<ArgumentError>([&] { reader.with(make_policy("full"), {}); }),
              testing::HasSubstr("reading has ended"));
}

TEST(PolicyCache, an_answer_can_be_taken_back_and_the_next_one_has_the_bits_of_the_first) {
  const std::vector<LayerSpec> layers = some_layers();
  for (const std::string& name : policy_names()) {
    if (keeps_everything(name)) continue;  // these can be cut anywhere
    Rng rng(11);
    const Step all = random_step(rng, layers, 130);
    const auto cache = make_policy_cache(name, {.tokens = 80}, layers, 130, DType::kF16);
    feed(*cache, part(all, 0, 100));
    cache->end_reading();
    const std::vector<float> first = feed(*cache, part(all, 100, 120));
    cache->truncate(100);
    feed(*cache, part(all, 120, 130));
    cache->truncate(100);
    EXPECT_TRUE(same_bits(first, feed(*cache, part(all, 100, 120)))) << name;
    EXPECT_THAT(message_of<ArgumentError>([&] { cache->truncate(99); }),
                testing::HasSubstr("the first 100 tokens were read and compressed"));
  }
}

TEST(PolicyCache, windowed_and_alibi_layers_are_left_whole) {
  std::vector<LayerSpec> layers = {layer_of(4, 2, 16, 16), layer_of(4, 2, 16, 16)};
  const std::vector<float> slopes{0.5f, 0.25f, 0.125f, 0.0625f};
  layers[0].attention.window_left = 20;
  layers[1].attention.slope_H = slopes.data();
  Rng rng(12);
  const Step all = random_step(rng, layers, 80);
  const auto cache = make_policy_cache("window", {.tokens = 6}, layers, 80, DType::kF32);
  ContiguousCache exact(layers, 80, DType::kF32);
  feed(*cache, part(all, 0, 70));
  feed(exact, part(all, 0, 70));
  cache->end_reading();
  EXPECT_TRUE(same_bits(feed(*cache, part(all, 70, 80)), feed(exact, part(all, 70, 80))));
}

TEST(PolicyCache, a_budget_of_bytes_read_counts_the_index_and_the_layers_left_whole) {
  const std::vector<LayerSpec> layers(5, layer_of(4, 2, 32, 32));
  Rng rng(13);
  const Step all = random_step(rng, layers, 401);
  ContiguousCache exact(layers, 401, DType::kF16);
  feed(exact, all);
  for (const char* name : {"window", "quest", "retroinfer", "multipole", "oracle", "snapkv"}) {
    for (const double read : {0.7, 0.8, 1.0}) {
      const auto cache = make_policy_cache(name, {.read = read}, layers, 401, DType::kF16);
      feed(*cache, part(all, 0, 400));
      cache->end_reading();
      const std::vector<float> out = feed(*cache, part(all, 400, 401));
      // What was fed after the reading is read beside the budget.
      const double row = static_cast<double>(exact.bytes_per_token()),
                   most = read * 400 * row + row;
      EXPECT_LE(static_cast<double>(cache->report().bytes_read), most) << name << read;
      // Whole pages and clusters leave a little of it.
      EXPECT_GT(static_cast<double>(cache->report().bytes_read), most - 40 * row) << name << read;
    }
  }
  const auto cache = make_policy_cache("quest", {.read = 0.3}, layers, 401, DType::kF16);
  feed(*cache, part(all, 0, 400));
  EXPECT_EQ(message_of<ArgumentError>([&] { cache->end_reading(); }),
            "a step of quest reads at least 51 % of the bytes here, and the budget is 30 %");
  EXPECT_EQ(dynamic_cast<PolicyCache&>(*cache).context(), -1) << "reading has not ended";
  EXPECT_THAT(message_of<ArgumentError>(
                  [&] { make_policy_cache("window", {.read = 1.5}, layers, 100, DType::kF32); }),
              testing::HasSubstr("at most 1"));
}

TEST(PolicyCache, pages_of_each_query_head_are_those_of_a_model_with_a_kv_head_for_each) {
  // Two query heads to a kv head; the same keys, with one query head each, show what each selects.
  const std::vector<LayerSpec> shared{layer_of(4, 2, 16, 8)}, single{layer_of(4, 4, 16, 8)};
  QuestParameters parameters{.dense_layers = 0, .pages = QuestPages::kOfHead};
  Rng rng(14);
  const Step all = random_step(rng, shared, 310);
  Step each = all;
  const auto doubled = [](const Tensor& x) {
    const std::int64_t N = x.size(0), K = x.size(2);
    Tensor out = Tensor::empty({N, 4, K}, DType::kF32);
    for (std::int64_t n = 0; n < N; ++n)
      for (std::int64_t h = 0; h < 4; ++h)
        std::copy_n(x.data<float>() + (n * 2 + h / 2) * K, K,
                    out.mutable_data<float>() + (n * 4 + h) * K);
    return out;
  };
  each.k[0] = doubled(all.k[0]);
  each.v[0] = doubled(all.v[0]);
  PolicyCache heads(shared, quest_policy(parameters), {.tokens = 64}, 310, DType::kF32,
                    Measure::kMass);
  parameters.pages = QuestPages::kOfGroup;
  PolicyCache alone(single, quest_policy(parameters), {.tokens = 64}, 310, DType::kF32);
  PolicyCache group(shared, quest_policy(parameters), {.tokens = 64}, 310, DType::kF32);
  for (PolicyCache* cache : {&heads, &alone, &group}) {
    feed(*cache, part(cache == &alone ? each : all, 0, 300));
    cache->end_reading();
  }
  const std::vector<float> out = feed(heads, part(all, 300, 310));
  EXPECT_LT(largest_difference(out, feed(alone, part(each, 300, 310))), 1e-6);
  EXPECT_GT(largest_difference(out, feed(group, part(all, 300, 310))), 1e-3);
  // A group reads what any of its heads selected.
  const std::vector<std::int32_t> together = heads.selected(0, 1);
  std::vector<std::int32_t> expected;
  const auto a = alone.selected(0, 2), b = alone.selected(0, 3);
  std::set_union(a.begin(), a.end(), b.begin(), b.end(), std::back_inserter(expected));
  EXPECT_EQ(together, expected);
  EXPECT_GT(together.size(), 64u);
  const double mass = heads.report().mass;
  EXPECT_GT(mass, 0.1);
  EXPECT_LT(mass, 1);
  PolicyCache bytes(shared, quest_policy({.pages = QuestPages::kOfHead}), {.read = 0.5}, 310,
                    DType::kF32);
  feed(bytes, part(all, 0, 300));
  EXPECT_THAT(message_of<ArgumentError>([&] { bytes.end_reading(); }),
              testing::HasSubstr("only a step tells that"));
}

TEST(PolicyCache, refuses_what_cannot_be_and_names_the_floor) {
  const std::vector<LayerSpec> layers = some_layers();
  const auto makes = [&](const char* name, Budget budget) {
    return message_of<ArgumentError>(
        [&] { make_policy_cache(name, budget, layers, 100, DType::kF32); });
  };
  EXPECT_EQ(makes("window", {.tokens = 4}), "a budget of 4 tokens; window needs at least 5");
  EXPECT_EQ(makes("oracle", {.tokens = 0}), "a budget of 0 tokens; oracle needs at least 1");
  EXPECT_EQ(makes("random", {.tokens = 0}), "a budget of 0 tokens; random needs at least 1");
  EXPECT_EQ(makes("quest", {.tokens = 47}), "a budget of 47 tokens; quest needs at least 48");
  EXPECT_EQ(makes("h2o", {.tokens = 1}), "a budget of 1 tokens; h2o needs at least 2");
  EXPECT_EQ(makes("snapkv", {.tokens = 64}), "a budget of 64 tokens; snapkv needs at least 65");
  EXPECT_EQ(makes("expected_attention", {.tokens = 4}),
            "a budget of 4 tokens; expected_attention needs at least 5");
  EXPECT_THAT(makes("window", {.fraction = 0}), testing::HasSubstr("a budget of 0 of the context"));
  EXPECT_THAT(makes("window", {.fraction = 1.5}), testing::HasSubstr("at most 1"));
  EXPECT_THAT(
      message_of<ArgumentError>([&] { PolicyCache(layers, nullptr, {}, 100, DType::kF32); }),
      testing::HasSubstr("without a policy"));
  EXPECT_THAT(
      message_of<ArgumentError>([&] { PolicyCache(layers, full_policy(), {}, 0, DType::kF32); }),
      testing::HasSubstr("a cache for 0 tokens"));
  EXPECT_THAT(
      message_of<ArgumentError>([&] { PolicyCache(layers, full_policy(), {}, 9, DType::kI32); }),
      testing::HasSubstr("a cache of i32"));

  Rng rng(13);
  const Step all = random_step(rng, layers, 60);
  const auto cache = make_policy_cache("window", {.fraction = 0.1}, layers, 60, DType::kF32);
  feed(*cache, part(all, 0, 40));
  EXPECT_THAT(message_of<ArgumentError>([&] { cache->end_reading(); }),
              testing::HasSubstr("a budget of 4 tokens (10 % of 40); window needs at least 5"));
  feed(*cache, part(all, 40, 50));
  cache->append(0, all.k[0].slice(0, 50, 51), all.v[0].slice(0, 50, 51));
  EXPECT_THAT(message_of<ArgumentError>([&] { cache->end_reading(); }),
              testing::HasSubstr("within a step"));
  cache->truncate(50);
  cache->end_reading();
  EXPECT_THAT(message_of<ArgumentError>([&] { cache->end_reading(); }),
              testing::HasSubstr("reading has ended before, after 50 tokens"));
  EXPECT_THAT(message_of<ArgumentError>([&] { feed(*cache, part(all, 40, 60)); }),
              testing::HasSubstr("holds 50 tokens of at most 60; 20 more do not fit"));

  const auto wrong = [&](std::vector<std::int32_t> at) {
    const auto bad = fixed_cache(layers, Decide::kOnce, std::move(at), 60);
    feed(*bad, part(all, 0, 20));
    return message_of<ArgumentError>([&] { bad->end_reading(); });
  };
  EXPECT_THAT(wrong({3, 3}), testing::HasSubstr("fixed selects position 3 after 3"));
  EXPECT_THAT(wrong({3, 20}), testing::HasSubstr("position 20 after 3 of a context of 20"));
  EXPECT_THAT(wrong({-1}), testing::HasSubstr("position -1"));
}

TEST(PolicyCache, a_policy_that_watched_cannot_unsee_part_of_the_reading) {
  const std::vector<LayerSpec> layers = some_layers();
  Rng rng(14);
  const Step all = random_step(rng, layers, 90);
  const auto cache = make_policy_cache("h2o", {.tokens = 10}, layers, 90, DType::kF32);
  feed(*cache, part(all, 0, 80));
  EXPECT_THAT(message_of<ArgumentError>([&] { cache->truncate(79); }),
              testing::HasSubstr("h2o has seen the queries of 80 tokens"));
  cache->truncate(0);
  feed(*cache, part(all, 0, 80));
  cache->end_reading();
  const auto fresh = make_policy_cache("h2o", {.tokens = 10}, layers, 90, DType::kF32);
  feed(*fresh, part(all, 0, 80));
  fresh->end_reading();
  EXPECT_TRUE(same_bits(feed(*cache, part(all, 80, 90)), feed(*fresh, part(all, 80, 90))));

  // One that saw nothing goes back as far as one likes; nothing at all is a context too.
  const auto window = make_policy_cache("window", {.tokens = 10}, layers, 90, DType::kF32);
  feed(*window, part(all, 0, 80));
  window->truncate(79);
  window->truncate(0);
  window->end_reading();
  ContiguousCache exact(layers, 90, DType::kF32);
  EXPECT_TRUE(same_bits(feed(*window, all), feed(exact, all)));
}

}  // namespace
}  // namespace quire::cache

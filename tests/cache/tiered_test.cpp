#include "quire/cache/tiered.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <algorithm>
#include <cmath>
#include <limits>
#include <numeric>

#include "quire/base/thread_pool.h"
#include "quire/cache/contiguous.h"
#include "tests/cache/steps.h"
#include "tests/cache/tiered.h"

namespace quire::cache {
namespace {

using test::feed;
using test::feed_layers;
using test::layer_of;
using test::message_of;
using test::part;
using test::same_bits;
using test::small_zones;
using test::Step;

constexpr DType kStored[] = {DType::kF32, DType::kF16, DType::kBF16, DType::kI8};

std::vector<LayerSpec> some_layers() {
  return {layer_of(4, 2, 16, 16), layer_of(6, 2, 32, 16), layer_of(3, 3, 64, 32)};
}

/// Keys as documents have them: topics that last a while, and queries that ask for one of them.
Step topical_step(Rng& rng, const std::vector<LayerSpec>& layers, std::int64_t N,
                  float noise = 0.4f) {
  constexpr std::int64_t kTopics = 40, kRun = 12;
  Step step = test::random_step(rng, layers, N);
  for (std::size_t layer = 0; layer < layers.size(); ++layer) {
    const LayerSpec& s = layers[layer];
    const Tensor topic = test::random(rng, {kTopics, s.G, s.K});
    for (std::int64_t n = 0; n < N; ++n) {
      const std::int64_t of_key = n / kRun * 7 % kTopics, of_query = (n * 11 + 3) % kTopics;
      float* k = step.k[layer].mutable_data<float>() + n * s.G * s.K;
      for (std::int64_t i = 0; i < s.G * s.K; ++i)
        k[i] = noise * k[i] + topic.data<float>()[of_key * s.G * s.K + i];
      float* q = step.q[layer].mutable_data<float>() + n * s.H * s.K;
      for (std::int64_t i = 0; i < s.H * s.K; ++i) {
        const std::int64_t g = i / s.K / (s.H / s.G);
        q[i] = noise * q[i] + topic.data<float>()[(of_query * s.G + g) * s.K + i % s.K];
      }
    }
  }
  return step;
}

/// Reads [0, document), then goes on in steps that end at `ends`; the outputs after the document.
std::vector<float> run(TieredCache& cache, const Step& all, std::int64_t document,
                       const std::vector<std::int64_t>& ends) {
  feed(cache, part(all, 0, document));
  cache.end_reading();
  std::vector<float> out;
  std::int64_t begin = document;
  for (const std::int64_t end : ends) {
    const std::vector<float> rows = feed_by_token(cache, part(all, begin, end));
    out.insert(out.end(), rows.begin(), rows.end());
    begin = end;
  }
  return out;
}

TEST(TieredCache, HET_08_contract_1_a_budget_that_covers_the_context_gives_the_ordinary_bits) {
  const std::vector<LayerSpec> layers = some_layers();
  const SearchBudget full[] = {{.tokens = 100000}, {.fraction = 1}, {.mass = 1}, {.read = 1}};
  for (const DType kv : kStored) {
    for (const SearchBudget& budget : full) {
      if (kv != DType::kF32 && budget.tokens < 0) continue;
      for (const bool offload : {false, true}) {
        Rng rng(1);
        const Step all = topical_step(rng, layers, 700);
        TieredCache cache(layers, small_zones(budget), 700, kv);
        ContiguousCache exact(layers, 700, kv);
        for (const auto& [begin, end] : {std::pair{0, 250}, {250, 531}, {531, 532}, {532, 700}}) {
          if (begin == 531) cache.end_reading();
          if (begin == 531 && offload) cache.offload();
          const Step step = part(all, begin, end);
          ASSERT_TRUE(same_bits(feed(cache, step), feed(exact, step)))
              << to_string(kv) << " " << begin << " offload " << offload;
        }
        EXPECT_EQ(cache.report().mass, 1);
        EXPECT_EQ(cache.figures().bytes_index, 0);
      }
    }
  }
}

/// Softmax attention of one query to the keys that are told, in f64: out [H, U], lse [H].
struct Plain {
  std::vector<double> out, lse;
};
Plain plain_attention(const LayerSpec& s, const float* q, const Tensor& k, const Tensor& v,
                      const std::vector<std::vector<std::int32_t>>& keys_G) {
  Plain result{std::vector<double>(static_cast<std::size_t>(s.H * s.U)),
               std::vector<double>(static_cast<std::size_t>(s.H))};
  for (std::int64_t h = 0; h < s.H; ++h) {
    const std::int64_t g = h / (s.H / s.G);
    double sum = 0;
    for (const std::int32_t j : keys_G[static_cast<std::size_t>(g)]) {
      double score = 0;
      for (std::int64_t i = 0; i < s.K; ++i)
        score += double{q[h * s.K + i]} * double{k.data<float>()[(j * s.G + g) * s.K + i]};
      const double weight = std::exp(score / std::sqrt(static_cast<double>(s.K)));
      sum += weight;
      for (std::int64_t u = 0; u < s.U; ++u)
        result.out[static_cast<std::size_t>(h * s.U + u)] +=
            weight * double{v.data<float>()[(j * s.G + g) * s.U + u]};
    }
    for (std::int64_t u = 0; u < s.U; ++u) result.out[static_cast<std::size_t>(h * s.U + u)] /= sum;
    result.lse[static_cast<std::size_t>(h)] = std::log(sum);
  }
  return result;
}

double distance(const float* a, const std::vector<double>& b) {
  double off = 0, size = 0;
  for (std::size_t i = 0; i < b.size(); ++i) {
    off += (double{a[i]} - b[i]) * (double{a[i]} - b[i]);
    size += b[i] * b[i];
  }
  return std::sqrt(off / size);
}

std::vector<std::vector<std::int32_t>> everything(std::int64_t G, std::int64_t end) {
  std::vector<std::int32_t> all(static_cast<std::size_t>(end));
  std::iota(all.begin(), all.end(), 0);
  return std::vector<std::vector<std::int32_t>>(static_cast<std::size_t>(G), all);
}

TEST(TieredCache, HET_04_contract_2_without_an_estimate_it_is_attention_to_what_was_selected) {
  const std::vector<LayerSpec> layers = some_layers();
  for (const std::int64_t two_levels : {std::int64_t{0}, std::int64_t{100000}}) {
    Rng rng(2);
    const Step all = topical_step(rng, layers, 901);
    TieredSpec spec = small_zones({.tokens = 100});
    spec.estimate = false;
    spec.two_levels_from = two_levels;
    spec.opened = 2;
    TieredCache cache(layers, spec, 901, DType::kF32);
    feed(cache, part(all, 0, 900));
    cache.end_reading();
    const std::vector<Tensor> out = feed_layers(cache, part(all, 900, 901));
    for (std::size_t layer = 0; layer < layers.size(); ++layer) {
      const LayerSpec& s = layers[layer];
      const auto at = static_cast<std::int64_t>(layer);
      const Tensor q_HK = all.q[layer].slice(0, 900, 901).contiguous_copy().view({s.H, s.K});
      const SearchResult found = cache.search(at, q_HK, 100);
      const TieredZones zones = cache.zones(at);
      std::vector<std::vector<std::int32_t>> keys_G;
      for (const FoundTokens& head : found.heads_G) {
        EXPECT_LE(head.positions.size(), 100u);
        EXPECT_GT(head.positions.size(), 20u);
        keys_G.push_back(head.positions);
        for (std::int64_t i = 0; i < 901; ++i)
          if (i < zones.sink || i >= zones.sink + zones.context)
            keys_G.back().push_back(static_cast<std::int32_t>(i));
      }
      const Plain expected =
          plain_attention(s, q_HK.data<float>(), all.k[layer], all.v[layer], keys_G);
      EXPECT_LT(distance(out[layer].data<float>(), expected.out), 2e-6);
    }
  }
}

TEST(TieredCache, HET_07_contract_3_clusters_of_equal_keys_are_estimated_exactly) {
  // Clusters of one token each.
  const std::vector<LayerSpec> layers = some_layers();
  Rng rng(3);
  const Step all = topical_step(rng, layers, 501);
  TieredSpec spec = small_zones({.tokens = 0});
  spec.clusters.tokens_per_cluster = 1;
  spec.clusters.largest = 1;
  spec.two_levels_from = 100000;  // a super-cluster has several
  spec.own_values = 1;
  TieredCache cache(layers, spec, 501, DType::kF32);
  feed(cache, part(all, 0, 500));
  cache.end_reading();
  const std::vector<Tensor> out = feed_layers(cache, part(all, 500, 501));
  EXPECT_EQ(cache.figures().selected, 0);
  for (std::size_t layer = 0; layer < layers.size(); ++layer) {
    const LayerSpec& s = layers[layer];
    const Plain expected = plain_attention(s, all.q[layer].data<float>() + 500 * s.H * s.K,
                                           all.k[layer], all.v[layer], everything(s.G, 501));
    EXPECT_LT(distance(out[layer].data<float>(), expected.out), 2e-6);
  }
}

TEST(TieredCache, HET_07_the_estimate_of_the_rest_lowers_the_error) {
  const std::vector<LayerSpec> layers{layer_of(4, 2, 32, 32)};
  for (const std::int64_t two_levels : {std::int64_t{0}, std::int64_t{100000}}) {
    double error[2] = {0, 0};
    for (const bool estimate : {false, true}) {
      Rng rng(4);
      const Step all = topical_step(rng, layers, 1240);
      TieredSpec spec = small_zones({.tokens = 40});
      spec.estimate = estimate;
      spec.two_levels_from = two_levels;
      spec.opened = 3;
      TieredCache cache(layers, spec, 1240, DType::kF32);
      const std::vector<float> out = run(cache, all, 1200, {1220, 1240});
      for (std::int64_t n = 0; n < 40; ++n)
        error[estimate ? 1 : 0] +=
            distance(out.data() + n * 128,
                     plain_attention(layers[0], all.q[0].data<float>() + (1200 + n) * 128, all.k[0],
                                     all.v[0], everything(2, 1201 + n))
                         .out);
    }
    EXPECT_LT(error[1], 0.6 * error[0]) << two_levels;
  }
}

void expect_zones(const TieredCache& cache, const TieredSpec& spec) {
  for (std::int64_t layer = 0; layer < 3; ++layer) {
    const TieredZones zones = cache.zones(layer);
    EXPECT_EQ(zones.sink + zones.context + zones.staging + zones.recent, cache.length());
    EXPECT_EQ(zones.sink, std::min(cache.length(), spec.sinks));
    EXPECT_LE(zones.recent, spec.recent);
    if (zones.context > 0) {
      EXPECT_EQ(zones.recent, spec.recent);
      EXPECT_LT(zones.staging, spec.staging);
    }
  }
}

TEST(TieredCache, HET_01_contract_4_every_token_is_in_one_zone_and_in_one_cluster_always) {
  const std::vector<LayerSpec> layers = some_layers();
  Rng rng(5);
  const Step all = topical_step(rng, layers, 900);
  const TieredSpec spec = small_zones({.tokens = 64});
  TieredCache cache(layers, spec, 900, DType::kF16);
  const auto check = [&] {
    expect_zones(cache, spec);
    if (cache.length() == 0) return;
    for (std::int64_t layer = 0; layer < 3; ++layer) {
      const LayerSpec& s = layers[static_cast<std::size_t>(layer)];
      const SearchResult found = cache.search(layer, test::random(rng, {s.H, s.K}), cache.length());
      const TieredZones zones = cache.zones(layer);
      std::vector<std::int32_t> context(static_cast<std::size_t>(zones.context));
      std::iota(context.begin(), context.end(), static_cast<std::int32_t>(zones.sink));
      for (const FoundTokens& head : found.heads_G) {
        std::vector<std::int32_t> positions = head.positions;
        std::sort(positions.begin(), positions.end());
        EXPECT_EQ(positions, context);
      }
      for (const double covered : found.covered_H) EXPECT_NEAR(covered, 1, 1e-6);
    }
  };
  check();
  feed(cache, part(all, 0, 10));
  check();
  feed(cache, part(all, 10, 500));
  check();
  EXPECT_EQ(cache.zones(0).context, 0);
  cache.build();
  check();
  EXPECT_EQ(cache.zones(0).context, 448);
  for (const std::int64_t end : {501, 560, 561, 640}) {
    feed(cache, part(all, cache.length(), end));
    check();
  }
  EXPECT_EQ(cache.zones(0).context, 576);
  cache.offload();
  check();
  EXPECT_GT(cache.figures().bytes_offloaded, 0);
  feed(cache, part(all, 640, 800));
  check();
  cache.truncate(600);
  check();
  EXPECT_EQ(cache.zones(0).context, 512);
  feed(cache, part(all, 600, 700));
  check();
  cache.reload();
  check();
  EXPECT_EQ(cache.figures().bytes_offloaded, 0);
  cache.truncate(0);
  check();
  feed(cache, part(all, 0, 300));
  check();
  EXPECT_EQ(cache.zones(0).context, 0);
}

TEST(TieredCache, contract_5_nothing_is_dropped_however_the_clusters_fall) {
  // Equal keys: one direction for all, so that clusters are as large as they may become.
  const std::vector<LayerSpec> layers{layer_of(2, 1, 16, 16)};
  Rng rng(6);
  Step all = test::random_step(rng, layers, 801);
  float* k = all.k[0].mutable_data<float>();
  for (std::int64_t i = 0; i < 801 * 16; ++i) k[i] = k[i % 16];
  for (const std::int64_t budget : {0, 1, 63, 200}) {
    TieredSpec spec = small_zones({.tokens = budget});
    spec.own_values = 1;
    TieredCache cache(layers, spec, 801, DType::kF32);
    feed(cache, part(all, 0, 800));
    cache.end_reading();
    const Step last = part(all, 800, 801);
    cache.begin_step({});
    cache.append(0, last.k[0], last.v[0]);
    const AttentionResult out = cache.attend_part(0, last.q[0]);
    // All weights are equal, and so what is estimated weighs what it should. (Its value is that of
    // whole clusters, also where a part of one was selected.)
    const Plain expected = plain_attention(layers[0], all.q[0].data<float>() + 800 * 32, all.k[0],
                                           all.v[0], everything(1, 801));
    for (std::int64_t h = 0; h < 2; ++h)
      EXPECT_NEAR(out.lse_NH.data<float>()[h], expected.lse[static_cast<std::size_t>(h)], 1e-5);
    EXPECT_LT(distance(out.out_NHU.data<float>(), expected.out), budget == 0 ? 1e-5 : 0.5);
    EXPECT_LE(cache.figures().selected, budget);
  }
}

TEST(TieredCache, HET_06_contract_6_offload_and_reload_never_change_a_bit) {
  const std::vector<LayerSpec> layers = some_layers();
  for (const DType kv : {DType::kF16, DType::kI8}) {
    Rng rng(7);
    const Step all = topical_step(rng, layers, 900);
    const TieredSpec spec = small_zones({.tokens = 96});
    TieredCache stays(layers, spec, 900, kv), moves(layers, spec, 900, kv);
    for (TieredCache* cache : {&stays, &moves}) {
      feed(*cache, part(all, 0, 600));
      cache->end_reading();
    }
    std::int64_t slow = 0;
    for (const auto& [begin, end] :
         {std::pair{600, 601}, {601, 650}, {650, 651}, {651, 800}, {800, 801}, {801, 900}}) {
      if (begin == 601 || begin == 800) moves.offload();
      if (begin == 651) moves.reload();
      const Step step = part(all, begin, end);
      ASSERT_TRUE(same_bits(feed(moves, step), feed(stays, step))) << to_string(kv) << begin;
      slow += moves.figures().bytes_slow;
      // The same bytes, from other places.
      EXPECT_EQ(moves.report().bytes_read, stays.report().bytes_read);
      EXPECT_EQ(moves.report().bytes_stored, stays.report().bytes_stored);
    }
    EXPECT_GT(slow, 0);
    EXPECT_EQ(stays.figures().bytes_slow, 0);
    // And back to where both were before.
    for (TieredCache* cache : {&stays, &moves}) cache->truncate(620);
    const Step again = part(all, 620, 700);
    ASSERT_TRUE(same_bits(feed(moves, again), feed(stays, again)));
  }
}

TEST(TieredCache, contract_7_neither_threads_nor_the_size_of_steps_change_a_bit) {
  const std::vector<LayerSpec> layers = some_layers();
  const SearchBudget budgets[] = {
      {.tokens = 90}, {.mass = 0.7, .min_tokens = 8}, {.read = 0.4, .min_tokens = 8}};
  const int threads = thread_pool().threads();
  for (const SearchBudget& budget : budgets) {
    for (const std::int64_t two_levels : {std::int64_t{0}, std::int64_t{100000}}) {
      Rng rng(8);
      const Step all = topical_step(rng, layers, 500);
      TieredSpec spec = small_zones(budget);
      spec.two_levels_from = two_levels;
      spec.opened = 2;
      std::vector<std::int64_t> one_by_one(130);
      std::iota(one_by_one.begin(), one_by_one.end(), 371);
      std::vector<std::vector<float>> outputs;
      for (const int count : {1, 3}) {
        set_threads(count);
        for (const std::vector<std::int64_t>& ends :
             {std::vector<std::int64_t>{377, 384, 460, 500}, one_by_one}) {
          TieredCache cache(layers, spec, 500, DType::kF16);
          outputs.push_back(run(cache, all, 370, ends));
        }
      }
      set_threads(threads);
      for (const std::vector<float>& other : outputs) EXPECT_TRUE(same_bits(other, outputs[0]));
    }
  }
}

TEST(TieredCache, HET_03_HET_02_search_finds_what_brute_force_finds) {
  const std::vector<LayerSpec> layers{layer_of(4, 2, 32, 32)};
  Rng rng(9);
  const Step all = topical_step(rng, layers, 4000);
  for (const std::int64_t two_levels : {std::int64_t{0}, std::int64_t{100000}}) {
    TieredSpec spec = small_zones({.tokens = 0});
    spec.two_levels_from = two_levels;
    TieredCache cache(layers, spec, 4000, DType::kF32);
    feed(cache, part(all, 0, 4000));
    cache.build();
    const TieredZones zones = cache.zones(0);
    std::int64_t wanted = 0, hits = 0;
    for (std::int64_t n = 0; n < 4000; n += 97) {
      const Tensor q_HK = all.q[0].slice(0, n, n + 1).contiguous_copy().view({4, 32});
      const SearchResult found = cache.search(0, q_HK, 400);
      for (std::int64_t g = 0; g < 2; ++g) {
        const FoundTokens& head = found.heads_G[static_cast<std::size_t>(g)];
        ASSERT_LE(head.positions.size(), 400u);
        ASSERT_EQ(head.positions.size(), head.scores.size());
        std::vector<std::pair<double, std::int32_t>> best;
        for (std::int64_t s = zones.sink; s < zones.sink + zones.context; ++s) {
          double score = -1e9;
          for (std::int64_t h = 2 * g; h < 2 * g + 2; ++h) {
            double sum = 0;
            for (std::int64_t i = 0; i < 32; ++i)
              sum += double{q_HK.data<float>()[h * 32 + i]} *
                     double{all.k[0].data<float>()[(s * 2 + g) * 32 + i]};
            score = std::max(score, sum);
          }
          best.emplace_back(-score, static_cast<std::int32_t>(s));
        }
        std::partial_sort(best.begin(), best.begin() + 32, best.end());
        for (std::size_t i = 0; i < 32; ++i) {
          ++wanted;
          hits += std::count(head.positions.begin(), head.positions.end(), best[i].second);
        }
      }
    }
    const double recall = static_cast<double>(hits) / static_cast<double>(wanted);
    RecordProperty("recall_percent", static_cast<int>(100 * recall));
    EXPECT_GE(recall, 0.9) << two_levels;
  }
}

TEST(TieredCache, a_key_far_above_the_others_of_its_cluster_is_found) {
  // Half of the keys are alike, and every query likes them well; the others are all unlike. A query
  // asks for one of these: the mean of its cluster says nothing of it, the spread does.
  constexpr std::int64_t N = 2000, K = 32;
  const std::vector<LayerSpec> layers{layer_of(1, 1, K, K)};
  Rng rng(17);
  Step all = test::random_step(rng, layers, N);
  for (std::int64_t n = 0; n < N; ++n) {
    float* k = all.k[0].mutable_data<float>() + n * K;
    for (std::int64_t i = 0; i < K && n % 2 == 0; ++i) k[i] *= 0.01f;
    k[0] = n % 2 == 0 ? 5.0f : 0.0f;
  }
  TieredSpec spec = small_zones({.tokens = 300});
  spec.two_levels_from = 100000;
  TieredCache cache(layers, spec, N, DType::kF32);
  feed(cache, all);
  cache.build();
  int found = 0;
  for (std::int64_t n = 101; n < N - 100; n += 90) {
    const float* k = all.k[0].data<float>() + n * K;
    Tensor q_HK = Tensor::empty({1, K}, DType::kF32);
    float norm = 0;
    for (std::int64_t i = 1; i < K; ++i) norm += k[i] * k[i];
    // A score of 25, and of 10 for all that are alike.
    for (std::int64_t i = 0; i < K; ++i)
      q_HK.mutable_data<float>()[i] = std::sqrt(float{K}) * (i == 0 ? 10 / 5.0f : 25 * k[i] / norm);
    const FoundTokens head = cache.search(0, q_HK, 300).heads_G[0];
    found += static_cast<int>(std::count(head.positions.begin(), head.positions.end(), n));
  }
  EXPECT_GE(found, 18) << "of 20";
}

TEST(TieredCache, a_budget_of_mass_is_met_and_its_report_says_so) {
  const std::vector<LayerSpec> layers = some_layers();
  Rng rng(10);
  const Step all = topical_step(rng, layers, 1000);
  double before = 0;
  std::int64_t tokens = 0;
  for (const double mass : {0.3, 0.6, 0.9}) {
    TieredCache cache(layers, small_zones({.mass = mass, .min_tokens = 0}), 1000, DType::kF32);
    run(cache, all, 999, {1000});
    EXPECT_GE(cache.report().mass, mass - 1e-5);
    EXPECT_GE(cache.report().mass, before);
    EXPECT_GE(cache.figures().selected, tokens);
    EXPECT_NEAR(cache.figures().mass_exact + cache.figures().mass_estimated, 1, 1e-9);
    before = cache.report().mass;
    tokens = cache.figures().selected;
    for (std::int64_t layer = 0; layer < 3; ++layer) {
      const LayerSpec& s = layers[static_cast<std::size_t>(layer)];
      const Tensor q_HK = all.q[static_cast<std::size_t>(layer)]
                              .slice(0, 999, 1000)
                              .contiguous_copy()
                              .view({s.H, s.K});
      for (const double covered :
           cache.search(layer, q_HK, SearchBudget{.mass = mass, .min_tokens = 0}).covered_H)
        EXPECT_GE(covered, mass - 1e-5);
    }
  }
  EXPECT_GT(tokens, 0);
}

TEST(TieredCache, a_budget_of_bytes_counts_index_and_hot_zones) {
  const std::vector<LayerSpec> layers{layer_of(4, 2, 64, 64)};
  Rng rng(11);
  const Step all = topical_step(rng, layers, 4001);
  for (const double read : {0.2, 0.4}) {
    TieredCache cache(layers, small_zones({.read = read}), 4001, DType::kF16);
    run(cache, all, 4000, {4001});
    const auto full = static_cast<double>(4001 * cache.bytes_per_token());
    const CacheReport report = cache.report();
    EXPECT_LE(static_cast<double>(report.bytes_read), read * full);
    EXPECT_GT(static_cast<double>(report.bytes_read), (read - 0.03) * full);
    const TieredFigures at = cache.figures();
    EXPECT_EQ(report.bytes_read, at.bytes_hot + at.bytes_slow + at.bytes_index);
    EXPECT_GT(report.bytes_stored, 4001 * cache.bytes_per_token());
    EXPECT_LT(static_cast<double>(report.bytes_stored), 1.13 * full);
  }
}

TEST(TieredCache, bytes_are_shared_among_the_heads_of_a_layer) {
  // One kv head's queries ask for one topic, the other's for none: it needs more tokens.
  const std::vector<LayerSpec> layers{layer_of(2, 2, 32, 32)};
  Rng rng(15);
  Step all = topical_step(rng, layers, 2001, 0.3f);
  float* q = all.q[0].mutable_data<float>() + 2000 * 64;
  for (std::int64_t i = 0; i < 32; ++i) q[i] *= 4;
  for (std::int64_t i = 32; i < 64; ++i) q[i] *= 0.1f;
  TieredCache cache(layers, small_zones({.read = 0.5}), 2001, DType::kF16);
  feed(cache, part(all, 0, 2000));
  cache.end_reading();
  const Tensor q_HK = all.q[0].slice(0, 2000, 2001).contiguous_copy().view({2, 32});
  const SearchResult found = cache.search(0, q_HK, SearchBudget{.read = 0.5});
  EXPECT_GT(found.heads_G[1].positions.size(), 2 * found.heads_G[0].positions.size());
  // So many tokens for each head are so many for each head.
  const SearchResult each = cache.search(0, q_HK, 300);
  for (const FoundTokens& head : each.heads_G) EXPECT_GT(head.positions.size(), 280u);
}

TEST(TieredCache, layers_with_a_window_are_left_whole) {
  std::vector<LayerSpec> layers{layer_of(2, 2, 16, 16), layer_of(2, 2, 16, 16)};
  layers[0].attention.window_left = 50;
  Rng rng(12);
  const Step all = topical_step(rng, layers, 600);
  TieredCache cache(layers, small_zones({.tokens = 32}), 600, DType::kF32);
  ContiguousCache exact(layers, 600, DType::kF32);
  feed(cache, part(all, 0, 500));
  feed(exact, part(all, 0, 500));
  cache.end_reading();
  const Step rest = part(all, 500, 600);
  const std::vector<Tensor> a = feed_layers(cache, rest), b = feed_layers(exact, rest);
  const auto values = [](const Tensor& x) {
    return std::vector<float>(x.data<float>(), x.data<float>() + x.elements());
  };
  EXPECT_TRUE(same_bits(values(a[0]), values(b[0])));
  EXPECT_FALSE(same_bits(values(a[1]), values(b[1])));
  EXPECT_EQ(cache.zones(0).context, 0);
}

TEST(TieredCache, a_logit_without_a_value_counts_once) {
  const float sink[] = {1.5f, 0.3f};
  std::vector<LayerSpec> layers{layer_of(2, 2, 16, 16)};
  layers[0].attention.sink_H = sink;
  Rng rng(13);
  const Step all = topical_step(rng, layers, 501);
  TieredSpec spec = small_zones({.tokens = 64});
  spec.clusters.tokens_per_cluster = spec.clusters.largest = 1;
  spec.two_levels_from = 100000;
  spec.own_values = 1;
  TieredCache cache(layers, spec, 501, DType::kF32);
  ContiguousCache exact(layers, 501, DType::kF32);
  feed(cache, part(all, 0, 500));
  feed(exact, part(all, 0, 500));
  cache.end_reading();
  const std::vector<float> out = feed(cache, part(all, 500, 501)),
                           truth = feed(exact, part(all, 500, 501));
  EXPECT_LT(distance(out.data(), {truth.begin(), truth.end()}), 2e-6);
}

TEST(TieredCache, errors_say_what_was_wrong) {
  const std::vector<LayerSpec> layers = some_layers();
  const auto make = [&](const TieredSpec& spec, DType kv = DType::kF32) {
    return message_of([&] { TieredCache(layers, spec, 100, kv); });
  };
  EXPECT_THAT(make({.budget = {}}), testing::HasSubstr("0 of them"));
  EXPECT_THAT(make({.budget = {.tokens = 5, .mass = 0.5}}), testing::HasSubstr("2 of them"));
  EXPECT_THAT(make({.budget = {.fraction = 1.5}}), testing::HasSubstr("1.5"));
  EXPECT_THAT(make({.sinks = 7}), testing::HasSubstr("spec.sinks is 7"));
  EXPECT_THAT(make({.staging = 0}), testing::HasSubstr("spec.staging is 0"));
  EXPECT_THAT(make({.recent = 0}), testing::HasSubstr("spec.recent is 0"));
  EXPECT_THAT(make({.shortlist = 0}), testing::HasSubstr("spec.shortlist is 0"));
  EXPECT_THAT(make({.own_values = -1}), testing::HasSubstr("spec.own_values is -1"));
  EXPECT_THAT(make({}, DType::kF64), testing::HasSubstr("f64"));
  TieredCache cache(layers, small_zones({.tokens = 16}), 400, DType::kF32);
  Rng rng(14);
  const Step all = topical_step(rng, layers, 400);
  feed(cache, part(all, 0, 300));
  cache.end_reading();
  EXPECT_THAT(message_of([&] { cache.truncate(299); }), testing::HasSubstr("299"));
  EXPECT_THAT(message_of([&] { cache.truncate(301); }), testing::HasSubstr("301"));
  EXPECT_THAT(message_of([&] { cache.advance(1); }), testing::HasSubstr("layer 0 holds 300"));
  EXPECT_THAT(message_of([&] {
                cache.search(0, test::random(rng, {4, 8}), 5);
              }),
              testing::HasSubstr("[4, 16]"));
  EXPECT_THAT(message_of([&] {
                cache.search(7, test::random(rng, {4, 16}), 5);
              }),
              testing::HasSubstr("layer is 7"));
  const Step more = part(all, 300, 400);
  cache.append(0, more.k[0], more.v[0]);
  EXPECT_THAT(message_of([&] { cache.build(); }), testing::HasSubstr("under way"));
  EXPECT_THAT(message_of([&] { cache.offload(); }), testing::HasSubstr("under way"));
  const Step too_many = test::random_step(rng, layers, 101);
  EXPECT_THAT(message_of([&] { cache.append(0, too_many.k[0], too_many.v[0]); }),
              testing::HasSubstr("101 more do not fit"));
}

}  // namespace
}  // namespace quire::cache

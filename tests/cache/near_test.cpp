#include "quire/cache/near.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <algorithm>
#include <cmath>
#include <numeric>

#include "quire/base/thread_pool.h"
#include "quire/cache/contiguous.h"
#include "quire/ops/math/rope.h"
#include "tests/cache/steps.h"
#include "tests/cache/tiered.h"
#include "tests/reference/rope.h"

namespace quire::cache {
namespace {

using test::feed;
using test::feed_layers;
using test::message_of;
using test::part;
using test::same_bits;
using test::Step;

constexpr std::int64_t kNear = 70, kSinks = 16;

LayerSpec turned_layer(std::int64_t H, std::int64_t G, std::int64_t K, const RopeSpec& rope) {
  LayerSpec layer = test::layer_of(H, G, K, 16);
  layer.rope = rope;
  return layer;
}

/// Both pairings, heads of which a part turns, and what scales scores beside turning.
std::vector<LayerSpec> some_layers() {
  const RopeSpec plain{.pairing = RopePairing::kInterleaved, .rotary = 16, .theta = 1000};
  RopeSpec yarn{.rotary = 24, .theta = 5000};
  yarn.scaling = RopeScaling::kYarn;
  yarn.factor = 4;
  yarn.original_context = 64;
  return {turned_layer(4, 2, 16, plain), turned_layer(3, 1, 32, yarn)};
}

NearSpec only_near() { return {.near = kNear, .sinks = kSinks, .far = {}}; }
NearSpec with_far(const SearchBudget& budget) {
  return {.near = kNear, .sinks = kSinks, .far = test::small_zones(budget)};
}

/// What a model hands to a cache: queries and keys at the positions 0, 1, …
Step turned(Step step, const std::vector<LayerSpec>& layers) {
  std::vector<std::int64_t> positions(static_cast<std::size_t>(step.N()));
  std::iota(positions.begin(), positions.end(), 0);
  for (std::size_t i = 0; i < layers.size(); ++i) {
    const RopeTable table(layers[i].rope);
    step.q[i] = rope(step.q[i], table, positions);
    step.k[i] = rope(step.k[i], table, positions);
  }
  return step;
}

/// Reads [0, document), then goes on in steps that end at `ends`; all outputs, row after row.
std::vector<float> run(NearCache& cache, const Step& all, const std::vector<std::int64_t>& ends,
                       std::int64_t document) {
  std::vector<float> out;
  std::int64_t begin = 0;
  for (const std::int64_t end : ends) {
    if (begin == document) cache.end_reading();
    const std::vector<float> rows = feed_by_token(cache, part(all, begin, end));
    out.insert(out.end(), rows.begin(), rows.end());
    begin = end;
  }
  return out;
}

/// One head, as if it stood at `position`, in f64.
std::vector<double> head_at(const Tensor& x_NHK, std::int64_t n, std::int64_t h,
                            const RopeSpec& rope, std::int64_t position) {
  const std::int64_t H = x_NHK.size(1), K = x_NHK.size(2);
  const float* from = x_NHK.data<float>() + (n * H + h) * K;
  std::vector<double> head(from, from + K);
  const double magnitude =
      rope.scaling == RopeScaling::kYarn ? yarn_attention_factor(rope.factor) : 1;
  ref::rope(head, rope_frequencies(rope), position, magnitude,
            rope.pairing == RopePairing::kInterleaved);
  return head;
}

/// The definition: query p with head h of a layer of unturned queries and keys. `far`: all earlier
/// tokens at one distance, else only the sinks.
std::vector<double> expected(const LayerSpec& s, const Step& raw, std::size_t layer, std::int64_t p,
                             std::int64_t h, bool far) {
  const std::int64_t g = h / (s.H / s.G);
  std::vector<double> out(static_cast<std::size_t>(s.U));
  double sum = 0;
  for (std::int64_t t = 0; t <= p; ++t) {
    std::int64_t query = p, key = t;
    if (p - t >= kNear) {
      if (!far && t >= kSinks) continue;
      query = far ? kNear : std::min(p, kNear + kSinks - 1);
      key = far ? 0 : t;
    }
    const auto q = head_at(raw.q[layer], p, h, s.rope, query);
    const auto k = head_at(raw.k[layer], t, g, s.rope, key);
    const double score = std::inner_product(q.begin(), q.end(), k.begin(), 0.0) /
                         std::sqrt(static_cast<double>(s.K));
    const double weight = std::exp(score);
    sum += weight;
    for (std::int64_t u = 0; u < s.U; ++u)
      out[static_cast<std::size_t>(u)] +=
          weight * double{raw.v[layer].data<float>()[(t * s.G + g) * s.U + u]};
  }
  for (double& x : out) x /= sum;
  return out;
}

/// The largest difference from the definition in the rows [begin, end) of what run() gave.
double worst(const std::vector<LayerSpec>& layers, const Step& raw, const std::vector<float>& out,
             std::int64_t begin, std::int64_t end, bool far) {
  std::int64_t width = 0;
  for (const LayerSpec& s : layers) width += s.H * s.U;
  double most = 0;
  for (std::int64_t p = begin; p < end; ++p) {
    const float* row = out.data() + p * width;
    for (std::size_t layer = 0; layer < layers.size(); ++layer)
      for (std::int64_t h = 0; h < layers[layer].H; ++h)
        for (const double x : expected(layers[layer], raw, layer, p, h, far))
          most = std::max(most, std::abs(double{*row++} - x));
  }
  return most;
}

TEST(NearCache, a_window_gives_sinks_the_place_before_it_however_long_the_text_is) {
  const std::vector<LayerSpec> layers = some_layers();
  Rng rng(1);
  const Step raw = test::random_step(rng, layers, 400), all = turned(raw, layers);
  NearCache cache(layers, only_near(), 400, DType::kF32);
  const std::vector<float> out = run(cache, all, {60, 200, 201, 400}, 201);
  EXPECT_LT(worst(layers, raw, out, 0, 400, false), 2e-5);
  NearCache half(layers, only_near(), 400, DType::kF16);
  EXPECT_LT(worst(layers, raw, run(half, all, {400}, 400), 0, 400, false), 4e-3);
}

TEST(NearCache, HET_04_what_is_far_has_one_distance_and_nothing_is_left_out) {
  const std::vector<LayerSpec> layers = some_layers();
  Rng rng(2);
  const Step raw = test::random_step(rng, layers, 320), all = turned(raw, layers);
  for (const DType kv : {DType::kF32, DType::kF16, DType::kI8}) {
    NearCache cache(layers, with_far({.tokens = 100000}), 320, kv);
    const std::vector<float> out = run(cache, all, {250, 251, 300, 320}, 250);
    const double rounding = kv == DType::kF32 ? 2e-5 : kv == DType::kF16 ? 4e-3 : 8e-2;
    EXPECT_LT(worst(layers, raw, out, 0, 250, false), rounding);
    EXPECT_LT(worst(layers, raw, out, 250, 320, true), rounding);
    EXPECT_EQ(cache.report().mass, 1);
    EXPECT_EQ(cache.far()->length(), 320 - kNear);
  }
}

TEST(NearCache, HET_08_a_text_that_is_all_near_has_the_bits_of_the_ordinary_cache) {
  const std::vector<LayerSpec> layers = some_layers();
  Rng rng(3);
  const Step all = turned(test::random_step(rng, layers, kNear + kSinks), layers);
  for (const DType kv : {DType::kF32, DType::kBF16, DType::kI8, DType::kI4H}) {
    for (const NearSpec& spec : {only_near(), with_far({.tokens = 64})}) {
      if (spec.far && kv == DType::kI4H) continue;  // not in a TieredCache
      NearCache cache(layers, spec, 200, kv);
      ContiguousCache exact(layers, 200, kv);
      for (const auto& [begin, end] : {std::pair{0, 50}, {50, 51}, {51, 70}}) {
        if (begin == 51) cache.end_reading();
        ASSERT_TRUE(
            same_bits(feed(cache, part(all, begin, end)), feed(exact, part(all, begin, end))))
            << to_string(kv) << " " << begin;
      }
      if (spec.far) continue;
      // While sinks leave the window they stand where they stood.
      const auto got = feed(cache, part(all, kNear, kNear + kSinks));
      const auto ordinary = feed(exact, part(all, kNear, kNear + kSinks));
      for (std::size_t i = 0; i < got.size(); ++i) ASSERT_NEAR(got[i], ordinary[i], 2e-6);
    }
  }
}

TEST(NearCache, answers_do_not_depend_on_how_far_from_its_beginning_a_text_goes_on) {
  const std::vector<LayerSpec> layers = some_layers();
  Rng rng(4);
  const Step begins = test::random_step(rng, layers, kSinks),
             between = test::random_step(rng, layers, 3000),
             ends = test::random_step(rng, layers, kNear);
  const auto after = [&](std::int64_t tokens) {
    const Step all = turned(test::joined({begins, part(between, 0, tokens), ends}), layers);
    NearCache cache(layers, only_near(), all.N(), DType::kF32);
    feed(cache, part(all, 0, all.N() - 1));
    return feed(cache, part(all, all.N() - 1, all.N()));
  };
  const std::vector<float> at_once = after(0), later = after(3000);
  for (std::size_t i = 0; i < at_once.size(); ++i) ASSERT_NEAR(at_once[i], later[i], 1e-5);
}

TEST(NearCache, bits_depend_neither_on_steps_nor_on_threads) {
  const std::vector<LayerSpec> layers = some_layers();
  Rng rng(5);
  const Step all = turned(test::random_step(rng, layers, 900), layers);
  for (const NearSpec& spec : {only_near(), with_far({.tokens = 64})}) {
    for (const DType kv : {DType::kF32, DType::kI8}) {
      const auto with = [&](const std::vector<std::int64_t>& ends, int threads) {
        const int before = thread_pool().threads();
        set_threads(threads);
        NearCache cache(layers, spec, 900, kv);
        std::vector<float> out = run(cache, all, ends, 800);
        set_threads(before);
        return out;
      };
      std::vector<std::int64_t> small;
      for (std::int64_t end = 1; end < 100; ++end) small.push_back(end);
      for (std::int64_t end = 100; end < 800; end += 33) small.push_back(end);
      for (std::int64_t end = 800; end <= 900; ++end) small.push_back(end);
      const std::vector<float> once = with({800, 900}, 2);
      EXPECT_TRUE(same_bits(once, with({256, 512, 768, 800, 899, 900}, 1)));
      EXPECT_TRUE(same_bits(once, with(small, 2)));
    }
  }
}

TEST(NearCache, a_search_is_near_to_what_the_whole_text_says_and_tells_how_near) {
  const std::vector<LayerSpec> layers = some_layers();
  Rng rng(6);
  const Step raw = test::random_step(rng, layers, 900), all = turned(raw, layers);
  NearCache cache(layers, with_far({.tokens = 128}), 900, DType::kF32);
  const std::vector<float> out = run(cache, all, {880, 900}, 880);
  const CacheReport report = cache.report();
  EXPECT_GT(report.mass, 0.1);
  EXPECT_LT(report.mass, 0.999);
  EXPECT_LT(report.bytes_read, cache.bytes());
  EXPECT_GT(report.bytes_read, kNear * cache.bytes_per_token());
  NearCache whole(layers, with_far({.tokens = 128}), 900, DType::kF32);
  feed(whole, part(all, 0, 880));
  whole.end_reading();
  whole.set_budget({.tokens = 100000});
  feed(whole, part(all, 880, 900));
  EXPECT_EQ(whole.report().mass, 1);
  const double most = worst(layers, raw, out, 880, 900, true);
  EXPECT_GT(most, 1e-4);  // something was estimated
  EXPECT_LT(most, 0.3);
}

TEST(NearCache, a_document_takes_no_more_memory_the_longer_it_is) {
  const std::vector<LayerSpec> layers = some_layers();
  Rng rng(7);
  const Step chunk = test::random_step(rng, layers, 100);
  NearCache cache(layers, only_near(), 100'000, DType::kF32);
  std::int64_t most = 0;
  for (int i = 0; i < 100; ++i) {
    test::hold(cache, chunk);
    most = std::max(most, cache.bytes());
  }
  EXPECT_EQ(cache.length(), 10'000);
  EXPECT_LE(most, (kNear + 255 + kSinks) * cache.bytes_per_token());
  EXPECT_EQ(cache.report().bytes_read, (kNear + kSinks) * cache.bytes_per_token());
  cache.truncate(0);
  EXPECT_EQ(cache.bytes(), 0);
}

TEST(NearCache, an_answer_can_be_taken_back) {
  const std::vector<LayerSpec> layers = some_layers();
  Rng rng(8);
  for (const std::int64_t document : {40, 80, 600}) {
    const Step all = turned(test::random_step(rng, layers, document + 200), layers);
    for (const NearSpec& spec : {only_near(), with_far({.tokens = 64})}) {
      NearCache cache(layers, spec, document + 200, DType::kF16);
      feed(cache, part(all, 0, document));
      cache.end_reading();
      const auto answer = [&] {
        std::vector<float> out = feed(cache, part(all, document, document + 190));
        const std::vector<float> last = feed(cache, part(all, document + 190, document + 200));
        out.insert(out.end(), last.begin(), last.end());
        return out;
      };
      const std::vector<float> first = answer();
      cache.truncate(document + 190);
      EXPECT_TRUE(same_bits(feed(cache, part(all, document + 190, document + 200)),
                            std::vector<float>(first.end() - 10 * (4 + 3) * 16, first.end())));
      cache.truncate(document);
      EXPECT_TRUE(same_bits(answer(), first)) << document;
      EXPECT_THAT(message_of([&] { cache.truncate(document - 1); }),
                  testing::HasSubstr("were read"));
      cache.truncate(0);
      feed(cache, part(all, 0, document));
      cache.end_reading();
      EXPECT_TRUE(same_bits(answer(), first)) << document;
    }
  }
  // While a document is read, only as far as its last keys are there.
  const Step all = test::random_step(rng, layers, 600);
  NearCache cache(layers, only_near(), 600, DType::kF32);
  test::hold(cache, all);
  EXPECT_THAT(message_of([&] { cache.truncate(500); }), testing::HasSubstr("made room"));
  EXPECT_EQ(cache.length(), 600);
}

TEST(NearCache, what_it_cannot_do_is_refused) {
  const std::vector<LayerSpec> layers = some_layers();
  const auto made = [&](const std::vector<LayerSpec>& of, const NearSpec& spec) {
    return message_of([&] { NearCache(of, spec, 100, DType::kF32); });
  };
  EXPECT_THAT(made({test::layer_of(2, 2, 16, 16)}, only_near()),
              testing::HasSubstr("turned by their position"));
  std::vector<LayerSpec> sliding = layers;
  sliding[1].attention.window_left = 20;
  EXPECT_THAT(made(sliding, only_near()), testing::HasSubstr("a sliding window"));
  EXPECT_THAT(made(layers, {.near = 0}), testing::HasSubstr("spec.near is 0"));
  EXPECT_THAT(made(layers, {.sinks = -1}), testing::HasSubstr("spec.sinks is -1"));
  EXPECT_THAT(made(layers, with_far({})), testing::HasSubstr("a budget"));
  NearCache cache(layers, only_near(), 100, DType::kF32);  // and this is not
  EXPECT_THAT(message_of([&] { cache.set_budget({.tokens = 3}); }),
              testing::HasSubstr("they are dropped"));
  EXPECT_THROW(cache.layer_bytes(0), ArgumentError);
  EXPECT_THROW(cache.fork(), ArgumentError);
  Rng rng(9);
  EXPECT_THAT(message_of([&] { test::hold(cache, test::random_step(rng, layers, 101)); }),
              testing::HasSubstr("do not fit"));
}

}  // namespace
}  // namespace quire::cache

#include "quire/cache/merged.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <cmath>
#include <numeric>

#include "quire/cache/contiguous.h"
#include "quire/cache/policies/policies.h"
#include "tests/cache/steps.h"

namespace quire::cache {
namespace {

using test::feed;
using test::feed_layers;
using test::layer_of;
using test::message_of;
using test::part;
using test::random_step;
using test::same_bits;
using test::Step;

constexpr DType kForms[] = {DType::kF32, DType::kBF16, DType::kF16, DType::kI8,
                            DType::kI8H, DType::kI4,   DType::kI4H};

std::vector<LayerSpec> some_layers() { return {layer_of(4, 2, 16, 16), layer_of(6, 2, 32, 16)}; }

/// Neighbours, by default: those merges lose no token. Small enough for short texts.
MergeOptions small(MergeOptions options) {
  options.sinks = 2;
  options.recent = 6;
  options.recent_share = 0;
  options.shared = 0;
  options.probes = 16;
  return options;
}

MergeOptions small() {
  MergeOptions options;
  options.groups = MergeGroups::kNeighbours;
  options.mass = MergeMass::kRecent;
  return small(options);
}

double sum_of(const Tensor& x) {
  return std::accumulate(x.data<float>(), x.data<float>() + x.elements(), 0.0);
}

/// Outputs of the last step against those of a contiguous cache: the relative error.
double error_of(const std::vector<float>& out, const std::vector<float>& exact) {
  double distance = 0, norm = 0;
  for (std::size_t i = 0; i < out.size(); ++i) {
    distance += std::pow(double{out[i]} - double{exact[i]}, 2);
    norm += std::pow(double{exact[i]}, 2);
  }
  return std::sqrt(distance / norm);
}

TEST(MergedCache, a_budget_that_covers_the_context_gives_the_bits_of_a_contiguous_cache) {
  const std::vector<LayerSpec> layers = some_layers();
  for (const std::string& name : merge_names()) {
    for (const DType kv : kForms) {
      Rng rng(1);
      const Step all = random_step(rng, layers, 320);
      MergedCache cache(layers, merge_options(name), {.tokens = 1000}, 320, kv);
      ContiguousCache exact(layers, 320, kv);
      for (const auto& [begin, end] : {std::pair{0, 170}, {170, 300}, {300, 301}, {301, 320}}) {
        if (begin == 300) cache.end_reading();
        const Step step = part(all, begin, end);
        ASSERT_TRUE(same_bits(feed(cache, step), feed(exact, step))) << name << " " << begin;
      }
    }
  }
}

TEST(MergedCache, KVM_05_every_token_is_counted_once_and_none_of_the_mass_is_lost) {
  const std::vector<LayerSpec> layers = some_layers();
  for (const MergeGroups groups : {MergeGroups::kNeighbours, MergeGroups::kAdjacent}) {
    for (const double budget : {0.1, 0.3, 0.5, 0.9}) {
      MergeOptions options = small();
      options.groups = groups;
      options.mass = MergeMass::kReading;
      MergedCache cache(layers, options, {.fraction = budget}, 260, DType::kF32);
      Rng rng(2);
      feed(cache, random_step(rng, layers, 251));
      cache.end_reading();
      for (std::int64_t i = 0; i < 2; ++i) {
        const LayerSpec& s = layers[static_cast<std::size_t>(i)];
        EXPECT_EQ(cache.dropped(i), 0);
        EXPECT_EQ(sum_of(cache.counts_GM(i)), static_cast<double>(251 * s.G));
        // Each query spreads a mass of 1 for each of its heads.
        EXPECT_NEAR(sum_of(cache.masses_GM(i)), static_cast<double>(251 * s.H), 0.02);
        EXPECT_EQ(cache.counts_GM(i).size(1), cache.entries(i));
      }
      EXPECT_EQ(cache.report().mass, 1);
      // Equal bytes, biases included: never more than the tokens of the budget take.
      const auto tokens = static_cast<std::int64_t>(budget * 251);
      std::int64_t bytes = 0;
      for (const LayerSpec& s : layers) bytes += tokens * s.G * (s.K + s.U) * 4;
      EXPECT_LE(cache.bytes(), bytes);
      EXPECT_GT(cache.bytes(), bytes - 2 * 2 * (64 * 4 + 4)) << "at most an entry less a layer";
    }
  }
}

TEST(MergedCache, KVM_05_identical_keys_become_one_without_any_loss) {
  const std::vector<LayerSpec> layers{layer_of(4, 2, 16, 8)};
  for (const MergeBias bias : {MergeBias::kLogCount, MergeBias::kFitted, MergeBias::kVotes}) {
    Rng rng(3);
    Step all = random_step(rng, layers, 140);
    // Tokens of the same run of four have the same keys and values.
    for (Tensor* x : {&all.k[0], &all.v[0]}) {
      const std::int64_t row = x->size(1) * x->size(2);
      float* data = x->mutable_data<float>();
      for (std::int64_t s = 0; s < 120; ++s)
        std::copy_n(data + s / 4 * 4 * row, row, data + s * row);
    }
    MergeOptions options = small();
    options.bias = bias;
    options.ridge = 0;
    options.heavy = 0;
    options.mass = MergeMass::kReading;
    MergedCache cache(layers, options, {.tokens = 46}, 140, DType::kF32);
    MergeOptions without = options;
    without.bias = MergeBias::kNone;
    MergedCache plain(layers, without, {.tokens = 46}, 140, DType::kF32);
    ContiguousCache exact(layers, 140, DType::kF32);
    for (KvCache* each : {static_cast<KvCache*>(&cache), static_cast<KvCache*>(&plain),
                          static_cast<KvCache*>(&exact)}) {
      feed(*each, part(all, 0, 120));
      each->end_reading();
    }
    const std::vector<float> truth = feed(exact, part(all, 120, 140));
    const double error = error_of(feed(cache, part(all, 120, 140)), truth);
    // kVotes takes attention from the reading, where early members were seen by more queries.
    EXPECT_LT(error, bias == MergeBias::kVotes ? 0.3 : 1e-5) << static_cast<int>(bias);
    EXPECT_GT(error_of(feed(plain, part(all, 120, 140)), truth), 0.05);
  }
}

/// Keys in runs of one topic each, as text has them.
Step topical_step(Rng& rng, const std::vector<LayerSpec>& layers, std::int64_t N) {
  Step step = random_step(rng, layers, N);
  for (std::size_t i = 0; i < layers.size(); ++i) {
    for (Tensor* x : {&step.k[i], &step.v[i]}) {
      const std::int64_t row = x->size(1) * x->size(2);
      float* data = x->mutable_data<float>();
      for (std::int64_t s = 0; s < N; ++s)
        for (std::int64_t j = 0; s % 8 != 0 && j < row; ++j)
          data[s * row + j] = data[s / 8 * 8 * row + j] + 0.3f * data[s * row + j];
    }
  }
  return step;
}

TEST(MergedCache, KVM_08_merging_errs_less_than_dropping_the_same_number_of_keys) {
  const std::vector<LayerSpec> layers = some_layers();
  Rng rng(4);
  const Step all = topical_step(rng, layers, 420);
  const auto error = [&](const MergeOptions& options, DType kv) {
    MergedCache cache(layers, options, {.tokens = 120}, 420, kv);
    ContiguousCache exact(layers, 420, DType::kF32);
    feed(cache, part(all, 0, 400));
    feed(exact, part(all, 0, 400));
    cache.end_reading();
    return error_of(feed(cache, part(all, 400, 420)), feed(exact, part(all, 400, 420)));
  };
  MergeOptions evict = small(), plain = small(), values = small();
  evict.mode = MergeMode::kEvict;
  values.mode = MergeMode::kValuesOnly;
  plain.bias = MergeBias::kNone;
  const double merged = error(small(), DType::kF32), dropped = error(evict, DType::kF32);
  EXPECT_LT(2 * merged, dropped);
  EXPECT_LT(merged, error(plain, DType::kF32));
  MergeOptions unmoved = small();
  unmoved.ridge = 0;
  EXPECT_LT(merged, error(unmoved, DType::kF32)) << "values that were moved to what queries got";
  EXPECT_LT(error(values, DType::kF32), dropped);
  // Merging goes together with every form of storage.
  for (const DType kv : kForms) EXPECT_LT(error(small(), kv), dropped) << to_string(kv);
}

TEST(MergedCache, KVM_09_merges_decoded_tokens_too_and_stays_within_its_bytes) {
  const std::vector<LayerSpec> layers = some_layers();
  for (const DType kv : {DType::kF32, DType::kI8, DType::kI4H}) {
    MergeOptions options = small();
    options.stream_tokens = 50;
    MergedCache cache(layers, options, {.tokens = 60}, 700, kv);
    Rng rng(5);
    const Step all = topical_step(rng, layers, 700);
    feed(cache, part(all, 0, 300));
    cache.end_reading();
    const std::int64_t entries = cache.entries(1), least = cache.bytes();
    for (std::int64_t at = 300; at < 700; ++at) {
      feed(cache, part(all, at, at + 1));
      EXPECT_EQ(cache.entries(1), entries);
      EXPECT_LE(cache.bytes(), least + 50 * cache.bytes_per_token());
      EXPECT_EQ(sum_of(cache.counts_GM(1)), static_cast<double>(2 * cache.context()));
    }
    EXPECT_EQ(cache.context(), 700);
    EXPECT_EQ(cache.length(), 700);
    EXPECT_THAT(message_of<ArgumentError>([&] { cache.truncate(699); }),
                testing::HasSubstr("the first 700 tokens were read and merged"));
  }
}

TEST(MergedCache, one_that_was_told_in_pieces_is_the_one_that_was_told_at_once) {
  const std::vector<LayerSpec> layers = some_layers();
  for (const std::string& name : merge_names()) {
    Rng rng(6);
    const Step all = random_step(rng, layers, 230);
    MergedCache once(layers, merge_options(name), {.tokens = 90}, 230, DType::kF16);
    MergedCache pieces(layers, merge_options(name), {.tokens = 90}, 230, DType::kF16);
    feed(once, part(all, 0, 200));
    for (const auto& [begin, end] : {std::pair{0, 77}, {77, 78}, {78, 200}})
      feed(pieces, part(all, begin, end));
    once.end_reading();
    pieces.end_reading();
    const std::vector<float> first = feed(once, part(all, 200, 230));
    std::vector<float> again;
    pieces.truncate(200);
    EXPECT_TRUE(same_bits(first, feed(pieces, part(all, 200, 230)))) << name;
    // An answer can be taken back, and the next one has the bits of the first.
    pieces.truncate(200);
    EXPECT_TRUE(same_bits(first, feed(pieces, part(all, 200, 230)))) << name;
  }
}

TEST(MergedCache, takes_over_what_another_cache_has_read) {
  const std::vector<LayerSpec> layers = some_layers();
  Rng rng(10);
  const Step all = random_step(rng, layers, 230);
  for (const std::string& name : merge_names()) {
    const auto make = [&] {
      return MergedCache(layers, merge_options(name), {.tokens = 90}, 230, DType::kF16);
    };
    MergedCache itself = make(), taken = make(), late = make(), wrong = make();
    Observe observe = itself.observe();
    observe.window += 20;
    PolicyCache reader(layers, observing_policy(observe), {}, 230, DType::kF16);
    for (KvCache* cache : {static_cast<KvCache*>(&itself), static_cast<KvCache*>(&reader)})
      feed(*cache, part(all, 0, 200));
    taken.take_over(reader);
    EXPECT_EQ(taken.length(), 200);
    itself.end_reading();
    taken.end_reading();
    EXPECT_TRUE(same_bits(feed(itself, part(all, 200, 230)), feed(taken, part(all, 200, 230))))
        << name;
    EXPECT_THROW(taken.take_over(reader), ArgumentError) << "it is not empty";
    PolicyCache blind(layers, full_policy(), {}, 230, DType::kF16);
    EXPECT_THROW(wrong.take_over(blind), ArgumentError) << "nothing was observed";
    EXPECT_EQ(wrong.length(), 0);
    reader.end_reading();
    EXPECT_THROW(late.take_over(reader), ArgumentError) << "the reading has ended";
  }
}

TEST(MergedCache, drops_only_where_it_was_asked_to_and_says_what) {
  const std::vector<LayerSpec> layers = some_layers();
  Rng rng(7);
  const Step all = random_step(rng, layers, 200);
  MergeOptions options = small(merge_options("keepkv"));
  options.threshold = 1;  // nothing is that similar
  options.mass = MergeMass::kReading;
  MergedCache cache(layers, options, {.tokens = 50}, 200, DType::kF32);
  feed(cache, all);
  cache.end_reading();
  EXPECT_EQ(cache.dropped(0), 2 * (200 - cache.entries(0)));
  EXPECT_EQ(sum_of(cache.counts_GM(0)), static_cast<double>(2 * cache.entries(0)));
  EXPECT_LT(cache.report().mass, 1);
  EXPECT_GT(cache.report().mass, 50.0 / 200);
}

TEST(MergedCache, KVM_03_keys_that_are_zero_or_all_alike_still_fit_the_budget) {
  const std::vector<LayerSpec> layers{layer_of(2, 1, 16, 16)};
  for (const float value : {0.0f, 1.0f}) {
    for (const std::string& name : merge_names()) {
      Rng rng(8);
      Step all = random_step(rng, layers, 210);
      std::fill_n(all.k[0].mutable_data<float>(), all.k[0].elements(), value);
      MergedCache cache(layers, merge_options(name), {.tokens = 90}, 210, DType::kF32);
      feed(cache, part(all, 0, 200));
      cache.end_reading();
      EXPECT_LE(cache.entries(0), 90);
      for (const float x : feed(cache, part(all, 200, 210))) EXPECT_TRUE(std::isfinite(x)) << name;
    }
  }
}

TEST(MergedCache, leaves_layers_whole_within_the_same_budget) {
  std::vector<LayerSpec> layers(4, layer_of(4, 2, 16, 16));
  layers[2].attention.window_left = 20;
  MergeOptions options = small();
  options.whole_first = 1;
  MergedCache cache(layers, options, {.tokens = 100}, 210, DType::kF32);
  Rng rng(9);
  const Step all = random_step(rng, layers, 210);
  feed(cache, part(all, 0, 200));
  cache.end_reading();
  // (3 · 100 − 200) / 2 tokens of 128 bytes a head, as entries of 132.
  EXPECT_EQ(cache.entries(1), 50 * 128 / 132);
  EXPECT_EQ(cache.entries(3), 50 * 128 / 132);
  EXPECT_THAT(message_of<ArgumentError>([&] { cache.entries(0); }),
              testing::HasSubstr("nothing was merged in layer 0"));
  EXPECT_THAT(message_of<ArgumentError>([&] { cache.entries(2); }),
              testing::HasSubstr("nothing was merged in layer 2"));
  ContiguousCache exact(layers, 210, DType::kF32);
  feed(exact, part(all, 0, 200));
  const Step last = part(all, 200, 210);
  EXPECT_TRUE(same_bits(
      [](const Tensor& x) {
        return std::vector<float>(x.data<float>(), x.data<float>() + x.elements());
      }(feed_layers(cache, last)[2]),
      [](const Tensor& x) {
        return std::vector<float>(x.data<float>(), x.data<float>() + x.elements());
      }(feed_layers(exact, last)[2])));
}

/// Feeds a second reading of what came last, and takes it back.
void feed_again(KvCache& cache, const Step& step) {
  cache.begin_reread();
  feed(cache, step);
  cache.end_reread();
}

TEST(MergedCache, a_second_reading_leaves_nothing_but_what_it_attended_to) {
  const std::vector<LayerSpec> layers = some_layers();
  Rng rng(12);
  const Step all = random_step(rng, layers, 230);
  // What comes again asks for token 20 with every head.
  Step again = random_step(rng, layers, 60);
  for (std::size_t i = 0; i < layers.size(); ++i) {
    const LayerSpec& s = layers[i];
    for (std::int64_t n = 0; n < 60; ++n)
      for (std::int64_t h = 0; h < s.H; ++h)
        for (std::int64_t j = 0; j < s.K; ++j)
          again.q[i].mutable_data<float>()[(n * s.H + h) * s.K + j] =
              8 * all.k[i].data<float>()[(20 * s.G + h / (s.H / s.G)) * s.K + j];
  }
  MergeOptions options = small(MergeOptions());
  options.reread = 100;
  options.mode = MergeMode::kEvict;
  MergedCache cache(layers, options, {.tokens = 30}, 300, DType::kF32);
  ContiguousCache exact(layers, 300, DType::kF32);
  EXPECT_EQ(cache.reread_tokens(), 100);
  feed(cache, part(all, 0, 100));
  feed(exact, part(all, 0, 100));
  feed_again(cache, again);
  EXPECT_EQ(cache.length(), 100);
  EXPECT_TRUE(same_bits(feed(cache, part(all, 100, 200)), feed(exact, part(all, 100, 200))));
  feed_again(cache, part(again, 0, 10));
  EXPECT_EQ(cache.report().reread, 70);
  cache.end_reading();
  EXPECT_EQ(cache.reread_tokens(), 0);
  for (std::int64_t i = 0; i < 2; ++i) {
    // Its mass is the largest of those that are neither first nor last: it was kept.
    const Tensor mass_GM = cache.masses_GM(i);
    for (std::int64_t g = 0; g < 2; ++g) {
      const float* mass = mass_GM.data<float>() + g * cache.entries(i);
      EXPECT_GT(*std::max_element(mass, mass + cache.entries(i, g)), 0.8f);
    }
  }
  // A question that asks for it gets it.
  Step asked = part(again, 0, 1);
  EXPECT_LT(error_of(feed(cache, asked), feed(exact, asked)), 0.2);
  EXPECT_THROW(cache.begin_reread(), ArgumentError) << "reading has ended";
}

TEST(MergedCache, second_readings_come_in_turn) {
  const std::vector<LayerSpec> layers = some_layers();
  MergedCache cache(layers, small(MergeOptions()), {.tokens = 30}, 100, DType::kF32);
  MergedCache none(layers, small(), {.tokens = 30}, 100, DType::kF32);
  ContiguousCache exact(layers, 100, DType::kF32);
  EXPECT_THROW(cache.end_reread(), ArgumentError);
  EXPECT_THROW(none.begin_reread(), ArgumentError);
  EXPECT_THROW(exact.begin_reread(), ArgumentError);
  EXPECT_EQ(none.reread_tokens(), 0);
  Rng rng(13);
  feed(cache, random_step(rng, layers, 50));
  cache.begin_reread();
  EXPECT_THROW(cache.begin_reread(), ArgumentError);
  EXPECT_THROW(cache.end_reading(), ArgumentError);
  EXPECT_THROW(feed(cache, random_step(rng, layers, 51)), ArgumentError) << "no room";
  cache.end_reread();
  EXPECT_EQ(cache.length(), 50);
  cache.end_reading();
}

TEST(MergedCache, entries_go_to_the_heads_that_need_them_within_the_same_bytes) {
  const std::vector<LayerSpec> layers = some_layers();
  Rng rng(14);
  const Step all = random_step(rng, layers, 430);
  // Head 0 of the first layer is asked for one key after another when the text comes again.
  Step again = random_step(rng, layers, 200);
  for (std::int64_t n = 0; n < 200; ++n)
    for (std::int64_t j = 0; j < 16; ++j)
      again.q[0].mutable_data<float>()[n * 4 * 16 + j] = 8 * all.k[0].data<float>()[n * 2 * 16 + j];
  MergeOptions options = small(MergeOptions());
  std::vector<std::int64_t> bytes;
  for (const double shared : {0.0, 0.6}) {
    options.shared = shared;
    MergedCache cache(layers, options, {.tokens = 100}, 830, DType::kF16);
    feed(cache, part(all, 0, 400));
    feed_again(cache, again);
    cache.end_reading();
    bytes.push_back(cache.bytes());
    const std::int64_t most = cache.entries(0, 0);
    for (const auto& [layer, g] : {std::pair{0, 1}, {1, 0}, {1, 1}}) {
      const std::int64_t less = most - cache.entries(layer, g);
      EXPECT_TRUE(shared > 0 ? less > 20 : std::abs(less) <= 4) << layer << " " << g << " " << less;
      EXPECT_GE(cache.entries(layer, g), 37) << "what each has for itself";
    }
    EXPECT_EQ(cache.counts_GM(0).size(1), cache.entries(0));
    // Saved and reopened it goes on with the same bits.
    MergedCache reopened(layers, options, {.tokens = 100}, 830, DType::kF16);
    reopened.restore(400, [&](std::int64_t layer) { return cache.layer_bytes(layer); });
    EXPECT_EQ(reopened.entries(0, 0), most);
    const Step last = part(all, 400, 430);
    EXPECT_TRUE(same_bits(feed(cache, last), feed(reopened, last)));
  }
  EXPECT_LE(bytes[1], bytes[0]);
  EXPECT_GT(bytes[1], bytes[0] - 200) << "an entry of each size at most";
}

TEST(MergedCache, refuses_what_cannot_be_and_names_the_floor) {
  const std::vector<LayerSpec> layers = some_layers();
  const auto make = [&](auto change, Budget budget = {.tokens = 80}) {
    MergeOptions options;
    change(options);
    return message_of<ArgumentError>(
        [&] { MergedCache(layers, options, budget, 90, DType::kF32); });
  };
  const auto nothing = [](MergeOptions&) {};
  EXPECT_EQ(make(nothing, {.tokens = 69}), "a budget of 69 tokens; a merge needs at least 70");
  EXPECT_THAT(make(nothing, {.fraction = 0}), testing::HasSubstr("a budget of 0 of the context"));
  EXPECT_THAT(make([](MergeOptions& o) { o.threshold = 1.5; }), testing::HasSubstr("threshold"));
  EXPECT_THAT(make([](MergeOptions& o) { o.window = 0; }), testing::HasSubstr("window is 0"));
  EXPECT_THAT(make([](MergeOptions& o) { o.group_cap = 1; }), testing::HasSubstr("group_cap is 1"));
  EXPECT_THAT(make([](MergeOptions& o) { o.round = 0; }), testing::HasSubstr("round is 0"));
  EXPECT_THAT(make([](MergeOptions& o) { o.heavy = 2; }), testing::HasSubstr("heavy 2"));
  EXPECT_THAT(make([](MergeOptions& o) { o.recent_share = 2; }),
              testing::HasSubstr("recent_share"));
  EXPECT_THAT(make([](MergeOptions& o) { o.shared = 2; }), testing::HasSubstr("shared is 2"));
  EXPECT_THAT(make([](MergeOptions& o) { o.reread = 0; }), testing::HasSubstr("reread is 0"));
  EXPECT_THAT(make([](MergeOptions& o) { o.ridge = -1; }), testing::HasSubstr("ridge is -1"));
  EXPECT_THAT(make([](MergeOptions& o) { o.count_cap = 0.5; }), testing::HasSubstr("count_cap"));
  EXPECT_THAT(make([](MergeOptions& o) { o.probes = 0; }), testing::HasSubstr("probes"));
  EXPECT_THAT(make([](MergeOptions& o) {
                o.groups = MergeGroups::kNeighbours;
                o.weights = MergeWeights::kCosine;
              }),
              testing::HasSubstr("weights by cosine need kept keys"));
  EXPECT_THAT(message_of<ArgumentError>([] { merge_options("merge"); }),
              "there is no merged cache 'merge'; there are merged, keepkv, asymkv, "
              "notebook_merge, notebook_merge_count");
  EXPECT_TRUE(is_merge_name("asymkv"));
  EXPECT_FALSE(is_merge_name("window"));

  MergedCache cache(layers, small(), {.fraction = 0.1}, 90, DType::kF32);
  Rng rng(10);
  const Step all = random_step(rng, layers, 90);
  feed(cache, part(all, 0, 80));
  EXPECT_THAT(message_of<ArgumentError>([&] { cache.truncate(79); }),
              testing::HasSubstr("the queries of 80 tokens were seen"));
  EXPECT_THAT(message_of<ArgumentError>([&] { cache.end_reading(); }),
              testing::HasSubstr("a budget of 8 tokens of 80 leaves 7 entries; a merge needs at "
                                 "least 10"));
  cache.truncate(0);
  feed(cache, part(all, 0, 5));
  cache.append(0, all.k[0].slice(0, 5, 6), all.v[0].slice(0, 5, 6));
  EXPECT_THAT(message_of<ArgumentError>([&] { cache.end_reading(); }),
              testing::HasSubstr("within a step"));
  EXPECT_THAT(message_of<ArgumentError>([&] { feed(cache, all); }),
              testing::HasSubstr("the cache holds 5 tokens of at most 90; 90 more do not fit"));
}

}  // namespace
}  // namespace quire::cache

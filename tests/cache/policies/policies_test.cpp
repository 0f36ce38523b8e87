#include "quire/cache/policies/policies.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <cmath>
#include <filesystem>
#include <fstream>

#include "quire/base/error.h"
#include "quire/cache/policies/average_rotation.h"
#include "tests/cache/steps.h"

namespace quire::cache {
namespace {

using test::feed;
using test::layer_of;
using test::message_of;
using test::part;
using test::random_step;
using testing::ElementsAre;
using testing::FloatEq;
using testing::HasSubstr;
using Scores = std::vector<float>;

Scores scores_of(const Policy& policy, const HeadContext& head) {
  Scores out(static_cast<std::size_t>(head.tokens));
  policy.score(head, out);
  return out;
}

std::vector<std::int32_t> selected_by(const Policy& policy, const HeadContext& head) {
  return policy.select(head, scores_of(policy, head));
}

TEST(Policies, are_found_by_name) {
  for (const std::string& name : policy_names())
    EXPECT_EQ(make_policy(name)->name(), keeps_everything(name) ? "full" : name);
  EXPECT_THAT(message_of<ArgumentError>([] { make_policy("windows"); }),
              HasSubstr("there is no cache policy 'windows'; there are full, int8, int8row, int4"));
}

TEST(Policies, int8_and_int4_are_full_with_that_storage) {
  const std::vector<LayerSpec> layers{layer_of(2, 1, 16, 16)};
  EXPECT_EQ(make_policy_cache("int8row", {}, layers, 8, DType::kF32)->bytes_per_token(), 32 + 8);
  EXPECT_EQ(make_policy_cache("int8", {}, layers, 8, DType::kF32)->bytes_per_token(), 32 + 4);
  // A group of 16 numbers: 8 bytes of codes, and two f16.
  EXPECT_EQ(make_policy_cache("int4", {}, layers, 8, DType::kF32)->bytes_per_token(), 2 * (8 + 4));
  EXPECT_EQ(make_policy_cache("int4h", {}, layers, 8, DType::kF32)->bytes_per_token(), 2 * (8 + 4));
  EXPECT_EQ(make_policy_cache("full", {}, layers, 8, DType::kF32)->bytes_per_token(), 128);
}

TEST(Policies, are_one_file_of_at_most_80_lines_each) {
  int files = 0;
  for (const auto& entry :
       std::filesystem::directory_iterator(QUIRE_SOURCE_DIR "/quire/cache/policies")) {
    const std::string stem = entry.path().stem().string();
    if (entry.path().extension() != ".cpp" || stem == "policies") continue;
    std::ifstream file(entry.path());
    int lines = 0;
    for (std::string line; std::getline(file, line);) ++lines;
    EXPECT_LE(lines, 80) << entry.path();
    ++files;
  }
  EXPECT_EQ(files, 15);  // twelve policies, a rotation, and clusters in two
}

TEST(Window, keeps_the_first_tokens_and_the_last) {
  const LayerSpec spec = layer_of(2, 1, 16, 16);
  const HeadContext head{.spec = &spec, .tokens = 10, .budget = 6};
  EXPECT_THAT(selected_by(*window_policy(), head), ElementsAre(0, 1, 2, 3, 8, 9));
  EXPECT_THAT(selected_by(*window_policy({.sinks = 1}), head), ElementsAre(0, 5, 6, 7, 8, 9));
  EXPECT_THROW(window_policy({.sinks = -1}), ArgumentError);
}

TEST(Oracle, selects_what_the_query_attends_to_most) {
  const LayerSpec spec = layer_of(2, 1, 16, 16);
  const Scores mass{.1f, .5f, .2f, .9f, .3f};
  const HeadContext head{.spec = &spec, .tokens = 5, .budget = 2, .query_mass_S = mass};
  EXPECT_THAT(selected_by(*oracle_policy(), head), ElementsAre(1, 3));

  // Two heads of a group, after each head's softmax: head 0 attends to key 2 with nearly all, head
  // 1 to key 5 by less, and key 7, which both like a little, comes third.
  const std::vector<LayerSpec> layers{layer_of(2, 1, 16, 16)};
  test::Step step;
  step.q.push_back(Tensor::zeros({11, 2, 16}, DType::kF32));
  step.k.push_back(Tensor::zeros({11, 1, 16}, DType::kF32));
  step.v.push_back(Tensor::zeros({11, 1, 16}, DType::kF32));
  float* q = step.q[0].mutable_data<float>() + 10 * 32;
  float* k = step.k[0].mutable_data<float>();
  q[0] = q[16 + 1] = 4;  // scores are 4/√16 · k
  k[2 * 16] = 9;
  k[5 * 16 + 1] = 4;
  k[7 * 16] = k[7 * 16 + 1] = 2;
  for (const std::int64_t budget : {1, 2, 3}) {
    PolicyCache cache(layers, oracle_policy(), {.tokens = budget}, 11, DType::kF32);
    feed(cache, part(step, 0, 10));
    cache.end_reading();
    feed(cache, part(step, 10, 11));
    const std::vector<std::int32_t> expected{2, 5, 7};
    EXPECT_EQ(cache.selected(0, 0),
              std::vector<std::int32_t>(expected.begin(), expected.begin() + budget));
  }
}

TEST(Random, draws_the_same_for_the_same_seed_and_otherwise_anew) {
  const LayerSpec spec = layer_of(4, 2, 16, 16);
  HeadContext head{.spec = &spec, .tokens = 1000, .budget = 100};
  const auto first = selected_by(*random_policy(), head);
  EXPECT_EQ(first.size(), 100u);
  EXPECT_EQ(first, selected_by(*random_policy(), head));
  EXPECT_NE(first, selected_by(*random_policy({.seed = 1}), head));
  head.g = 1;
  EXPECT_NE(first, selected_by(*random_policy(), head));
  head.g = 0;
  head.layer = 1;
  EXPECT_NE(first, selected_by(*random_policy(), head));
  // Every part of the context gets its share: 100 of 1000, half of it in each half, ± 4 σ.
  EXPECT_NEAR(
      static_cast<double>(std::lower_bound(first.begin(), first.end(), 500) - first.begin()), 50,
      20);
}

TEST(Quest, bounds_pages_by_the_smallest_and_largest_of_their_keys) {
  const LayerSpec spec{2, 1, 2, 2, {}};
  const auto policy = quest_policy({.page_tokens = 2, .least_pages = 2, .dense_layers = 1});
  //                 page 0        page 1       page 2 (half)
  const Scores keys{1, -2, 3, 0, -1, 1, 0, 2, 0.5f, 0.5f};
  HeadContext head{.layer = 1, .spec = &spec, .tokens = 5, .budget = 2, .k_SK = keys};
  policy->build(head);
  // Page 0 lies in [1, 3] × [−2, 0]. Query (1, −1): 3 + 2 = 5; query (−1, 0): −1; together 4.
  // Page 1 in [−1, 0] × [1, 2]: 0 − 1 and 1, together 0. Page 2: 0 and −0.5.
  const Scores q{1, -1, -1, 0};
  head.q_RK = q;
  EXPECT_THAT(scores_of(*policy, head), ElementsAre(4, 4, 0, 0, -0.5f));
  EXPECT_THAT(selected_by(*policy, head), ElementsAre(0, 1, 4));  // least two, the last always
  EXPECT_EQ(policy->floor_tokens(), 4);
  EXPECT_TRUE(policy->is_dense(0));
  EXPECT_FALSE(policy->is_dense(1));
  // Two bounds of two numbers of two bytes for each of three pages.
  EXPECT_EQ(policy->index_bytes(1), 24);
  EXPECT_EQ(policy->index_bytes(0), 0);
  EXPECT_THROW(quest_policy({.page_tokens = 0}), ArgumentError);
}

TEST(Quest, takes_the_authors_pages_of_16_and_two_dense_layers) {
  const std::vector<LayerSpec> layers(3, layer_of(2, 1, 16, 16));
  Rng rng(1);
  const test::Step all = random_step(rng, layers, 201);
  PolicyCache cache(layers, quest_policy(), {.tokens = 79}, 201, DType::kF16);
  feed(cache, part(all, 0, 200));
  cache.end_reading();
  feed(cache, part(all, 200, 201));
  EXPECT_EQ(cache.selected(0, 0).size(), 200u);
  EXPECT_EQ(cache.selected(1, 0).size(), 200u);
  const auto at = cache.selected(2, 0);  // 79 / 16 = 4 pages, the last one of 8 tokens
  EXPECT_EQ(at.size(), 3u * 16 + 8);
  EXPECT_EQ(at[0] % 16, 0);
  EXPECT_EQ(at[at.size() - 8], 192);
  // Two layers of 201 tokens, one of 57, all of 64 bytes; 13 pages of 2 · 16 halves.
  EXPECT_EQ(cache.report().bytes_read, 64 * (2 * 201 + 57) + 13 * 64);
  EXPECT_EQ(cache.report().bytes_stored, 64 * 3 * 201 + 13 * 64);
}

TEST(H2o, keeps_what_was_attended_most_and_the_recent_half) {
  const LayerSpec spec = layer_of(2, 1, 16, 16);
  const Scores mass{5, 1, 4, 3, 0, 0};
  HeadContext head{.spec = &spec, .tokens = 6, .budget = 4, .reading_mass_S = mass};
  EXPECT_THAT(selected_by(*h2o_policy(), head), ElementsAre(0, 2, 4, 5));
  EXPECT_THAT(selected_by(*h2o_policy({.recent = 0}), head), ElementsAre(0, 1, 2, 3));
  head.budget = 3;
  EXPECT_THAT(selected_by(*h2o_policy(), head), ElementsAre(0, 2, 5));
  EXPECT_THROW(h2o_policy({.recent = 1.5}), ArgumentError);
}

TEST(SnapKv, averages_what_the_last_window_attended_to_over_neighbours) {
  const LayerSpec spec = layer_of(2, 1, 16, 16);
  const Scores mass{1, 0, 6, 0, 2, 9, 9};  // the last two are the window's own
  const HeadContext head{.spec = &spec, .tokens = 7, .budget = 4, .window_mass_S = mass};
  const auto policy = snapkv_policy({.window = 2, .kernel = 3});
  EXPECT_THAT(scores_of(*policy, head), ElementsAre(1, 7, 6, 8, 2, 0, 0));
  EXPECT_THAT(selected_by(*policy, head), ElementsAre(1, 3, 5, 6));
  EXPECT_EQ(snapkv_policy()->observe().window, 64);
  EXPECT_EQ(snapkv_policy()->floor_tokens(), 65);
  EXPECT_THROW(snapkv_policy({.kernel = 4}), ArgumentError);
}

TEST(KvZip, keeps_what_a_second_reading_attended_to_most) {
  const LayerSpec spec = layer_of(2, 1, 16, 16);
  const Scores peak{0, 0.5f, 0.1f, 0.9f, 0.2f, 0};
  HeadContext head{.spec = &spec, .tokens = 6, .budget = 4, .reread_peak_S = peak};
  EXPECT_THAT(selected_by(*kvzip_policy({.sinks = 1, .recent = 0.25}), head),
              ElementsAre(0, 1, 3, 5));
  EXPECT_THAT(selected_by(*kvzip_policy({.sinks = 0, .recent = 0}), head), ElementsAre(1, 2, 3, 4));
  EXPECT_EQ(kvzip_policy({.piece = 77})->observe().reread, 77);
  EXPECT_EQ(kvzip_policy()->floor_tokens(), 6);
  EXPECT_THROW(kvzip_policy({.piece = 0}), ArgumentError);
  EXPECT_THROW(kvzip_policy({.recent = 1.5}), ArgumentError);
}

TEST(ExpectedAttention, weighs_the_expected_softmax_by_the_length_of_values) {
  LayerSpec spec{1, 1, 2, 2, {}};
  spec.attention.scale = 1;
  const float ln2 = std::log(2.0f);
  const Scores keys{7, 7, 0, 0, ln2, 0, 0, 0}, values{9, 9, 3, 4, 1, 0, 0, 2};
  const std::vector<double> mean{1, 0}, none(4), cov{2, 0, 0, 0};
  HeadContext head{.spec = &spec,
                   .tokens = 4,
                   .budget = 2,
                   .k_SK = keys,
                   .v_SU = values,
                   .mean_RK = mean,
                   .cov_RKK = none};
  const auto policy = expected_attention_policy({.sinks = 1, .future = 3});
  // exp(k·μ) = 1, 2, 1: shares ¼, ½, ¼ of values of length 5, 1, 2; the sink has no share.
  EXPECT_THAT(scores_of(*policy, head),
              ElementsAre(0, FloatEq(1.25f), FloatEq(0.5f), FloatEq(0.5f)));
  EXPECT_THAT(selected_by(*policy, head), ElementsAre(0, 1));
  // ½ kᵀΣk = ln²2: the middle key now weighs 2^(1 + ln 2).
  head.cov_RKK = cov;
  const double weight = std::exp2(1 + std::log(2));
  EXPECT_NEAR(double{scores_of(*policy, head)[2]}, weight / (weight + 2), 1e-6);
  EXPECT_EQ(expected_attention_policy()->observe().moments_from, 4);
  EXPECT_THROW(expected_attention_policy({.sinks = 4, .future = 0}), ArgumentError);
}

TEST(ExpectedAttention, averages_over_the_heads_of_a_group) {
  LayerSpec spec{2, 1, 2, 2, {}};
  spec.attention.scale = 1;
  const Scores keys{0, 0, std::log(3.0f), 0}, values{1, 0, 1, 0};
  const std::vector<double> mean{1, 0, -1, 0}, none(8);
  const HeadContext head{.spec = &spec,
                         .tokens = 2,
                         .budget = 1,
                         .k_SK = keys,
                         .v_SU = values,
                         .mean_RK = mean,
                         .cov_RKK = none};
  // Shares ¼, ¾ for one head and ¾, ¼ for the other.
  EXPECT_THAT(scores_of(*expected_attention_policy({.sinks = 0, .future = 1}), head),
              ElementsAre(FloatEq(0.5f), FloatEq(0.5f)));
}

/// Keys of one head around as many directions as `of` names, each with a value of its own.
struct Heap {
  Scores k_SK, v_SU;
};
Heap heap(const std::vector<int>& of) {
  Heap out;
  for (std::size_t s = 0; s < of.size(); ++s) {
    for (int i = 0; i < 4; ++i) out.k_SK.push_back(i == of[s] ? 4 : 0);
    for (int i = 0; i < 2; ++i) out.v_SU.push_back(static_cast<float>(s) + static_cast<float>(i));
  }
  return out;
}

TEST(RetroInfer, takes_whole_clusters_and_lets_the_next_ones_stand_as_one_key_each) {
  LayerSpec spec{2, 1, 4, 2, {}};
  spec.attention.scale = 1;
  // A sink, 16 keys in four directions, one recent key.
  const std::vector<int> of{3, 0, 1, 2, 3, 1, 2, 3, 0, 2, 3, 0, 1, 3, 0, 1, 2, 3};
  const Heap keys = heap(of);
  HeadContext head{.spec = &spec, .tokens = 18, .budget = 9, .k_SK = keys.k_SK, .v_SU = keys.v_SU};
  RetroInferParameters parameters{.sinks = 1, .recent = 1, .tokens_per_cluster = 4};
  parameters.estimated = 0.5;
  const auto policy = retroinfer_policy(parameters);
  policy->build(head);
  // One head looks to direction 1, the other to 2, less so; 0 comes before 3 for both.
  const Scores q{0.1f, 1, 0, 0, 0.1f, 0, 0.5f, 0};
  head.q_RK = q;
  EXPECT_THAT(selected_by(*policy, head), ElementsAre(0, 2, 5, 12, 15, 17));  // 9 - 2 hold one
  head.budget = 10;
  const auto selected = selected_by(*policy, head);
  EXPECT_THAT(selected, ElementsAre(0, 2, 3, 5, 6, 9, 12, 15, 16, 17));
  const StandIns stand_ins = policy->stand_ins(head, selected);  // two of four, both others
  EXPECT_THAT(stand_ins.bias_E, ElementsAre(FloatEq(std::log(4.0f)), FloatEq(std::log(4.0f))));
  EXPECT_THAT(stand_ins.k_EK, ElementsAre(4, 0, 0, 0, 0, 0, 0, 4));
  EXPECT_THAT(stand_ins.v_EU, ElementsAre(8.5f, 9.5f, 8.5f, 9.5f));  // of 1, 8, 11, 14
  // Keys and sizes of four clusters, values of two; stored, all values and 16 places.
  EXPECT_EQ(policy->index_bytes_read(0), 4 * (8 + 2) + 2 * 4);
  EXPECT_EQ(policy->index_bytes(0), 4 * (8 + 4 + 2) + 16 * 4);
  EXPECT_EQ(policy->floor_tokens(), 3);
  EXPECT_THROW(retroinfer_policy({.estimated = 1.5}), ArgumentError);
  EXPECT_THROW(retroinfer_policy({.sinks = -1}), ArgumentError);
}

TEST(RetroInfer, estimates_a_quarter_of_the_clusters_and_multipole_all) {
  const std::vector<LayerSpec> layers(1, layer_of(2, 1, 16, 16));
  Rng rng(7);
  const test::Step all = random_step(rng, layers, 669);
  const auto bytes_read = [&](const char* name) {
    PolicyCache cache(layers, make_policy(name), {.tokens = 68 + 32}, 669, DType::kF16);
    feed(cache, part(all, 0, 668));
    cache.end_reading();
    feed(cache, part(all, 668, 669));
    const auto exact = static_cast<std::int64_t>(cache.selected(0, 0).size()) + 1;
    EXPECT_GT(exact, 69) << name;
    EXPECT_LE(exact, 101) << name;
    return cache.report().bytes_read - 64 * exact;
  };
  // 600 keys make 38 clusters at most: keys of 32 bytes, sizes of 2, and values of 32.
  const std::int64_t clusters = (bytes_read("multipole")) / 66;
  EXPECT_GT(clusters, 25);
  EXPECT_LE(clusters, 38);
  EXPECT_EQ(bytes_read("multipole"), clusters * 66);
  const std::int64_t some = bytes_read("retroinfer");
  EXPECT_NEAR(static_cast<double>(some), static_cast<double>(clusters) * (34 + 0.232 * 32), 66);
}

TEST(Multipole, ranks_clusters_by_their_size_too) {
  LayerSpec spec{1, 1, 4, 2, {}};
  spec.attention.scale = 1;
  // Direction 0 has 12 keys, direction 1 has 4.
  const std::vector<int> of{0, 0, 1, 0, 0, 0, 1, 0, 1, 0, 0, 0, 1, 0, 0, 0};
  const Heap keys = heap(of);
  HeadContext head{.spec = &spec, .tokens = 16, .budget = 12, .k_SK = keys.k_SK, .v_SU = keys.v_SU};
  MultipoleParameters by_size{.sinks = 0, .recent = 0, .tokens_per_cluster = 8};
  RetroInferParameters by_key{.sinks = 0, .recent = 0, .tokens_per_cluster = 8};
  const auto multipole = multipole_policy(by_size);
  const auto retroinfer = retroinfer_policy(by_key);
  multipole->build(head);
  retroinfer->build(head);
  const Scores q{0.5f, 0.6f, 0, 0};  // e^2.4 for direction 1, 3 · e^2 for direction 0
  head.q_RK = q;
  EXPECT_THAT(selected_by(*retroinfer, head), ElementsAre(2, 6, 8, 12));
  EXPECT_EQ(selected_by(*multipole, head).size(), 12u);
  EXPECT_EQ(multipole->stand_ins(head, selected_by(*multipole, head)).bias_E.size(), 1u);
}

TEST(Multipole, is_exact_where_all_keys_of_a_cluster_are_the_same) {
  const std::vector<LayerSpec> layers(1, layer_of(4, 2, 16, 16));
  Rng rng(3);
  test::Step all = random_step(rng, layers, 200);
  // 120 keys behind the sinks repeat 8 directions, with the same value each time.
  for (std::int64_t s = 4; s < 124; ++s) {
    for (Tensor* of : {&all.k[0], &all.v[0]}) {
      float* rows = of->mutable_data<float>();
      std::copy_n(rows + (4 + (s - 4) % 8) * 32, 32, rows + s * 32);
    }
  }
  PolicyCache cache(layers, multipole_policy(), {.tokens = 69}, 200, DType::kF32),
      full(layers, full_policy(), {}, 200, DType::kF32);
  for (PolicyCache* of : {&cache, &full}) {
    feed(*of, part(all, 0, 188));
    of->end_reading();
  }
  const auto a = feed(cache, part(all, 188, 200)), b = feed(full, part(all, 188, 200));
  EXPECT_EQ(cache.selected(0, 0).size(), 68u) << "no cluster of 15 fits behind 68 tokens";
  for (std::size_t i = 0; i < a.size(); ++i) EXPECT_NEAR(a[i], b[i], 3e-3) << "the index is f16";
}

TEST(VAttention, takes_the_best_and_a_sample_that_counts_for_the_rest) {
  const LayerSpec spec = layer_of(2, 1, 16, 16);
  Scores mass(1000, 0.001f);
  mass[500] = mass[700] = 1;
  const Scores q{1, 2, 3};
  HeadContext head{.spec = &spec, .tokens = 1000, .budget = 14, .q_RK = q, .query_mass_S = mass};
  const auto policy = vattention_policy({.sinks = 4, .recent = 6});
  const auto selected = selected_by(*policy, head);
  ASSERT_EQ(selected.size(), 14u);
  for (const std::int32_t at : {0, 3, 500, 700, 994, 999})
    EXPECT_TRUE(std::binary_search(selected.begin(), selected.end(), at)) << at;
  std::vector<float> bias(14);
  ASSERT_TRUE(policy->bias(head, selected, bias));
  for (std::size_t i = 0; i < 14; ++i) {
    const std::int32_t at = selected[i];
    const bool sure = at < 4 || at >= 994 || at == 500 || at == 700;
    EXPECT_FLOAT_EQ(bias[i], sure ? 0 : std::log(988.0f / 2)) << at;
  }
  EXPECT_EQ(selected, selected_by(*policy, head)) << "the same for the same query";
  const Scores other{1, 2, 4};
  head.q_RK = other;
  EXPECT_NE(selected, selected_by(*policy, head));
  // Every key of the rest is drawn as often as the others.
  double sum = 0;
  head.budget = 212;
  for (int seed = 0; seed < 50; ++seed) {
    const auto drawn = selected_by(
        *vattention_policy(
            {.sinks = 4, .recent = 6, .best = 0.01, .seed = static_cast<std::uint64_t>(seed)}),
        head);
    for (const std::int32_t at : drawn) sum += at >= 4 && at < 499 ? 1 : 0;
  }
  EXPECT_NEAR(sum / 50 / 200, 495.0 / 988, 0.02);
  EXPECT_THROW(vattention_policy({.best = 2}), ArgumentError);
}

TEST(AverageRotation, is_the_mean_of_what_rope_does_at_each_position) {
  for (const RopePairing pairing : {RopePairing::kInterleaved, RopePairing::kHalfSplit}) {
    for (const RopeScaling scaling : {RopeScaling::kNone, RopeScaling::kYarn}) {
      RopeSpec spec{.pairing = pairing, .rotary = 12, .theta = 50, .scaling = scaling};
      if (scaling == RopeScaling::kYarn) {
        spec.factor = 4;
        spec.original_context = 16;
      }
      const RopeTable table(spec);
      Rng rng(2);
      std::vector<double> x(16), mean(16);
      for (double& value : x) value = double{rng.normal()};
      std::vector<double> outer(256);
      for (std::size_t i = 0; i < 256; ++i) outer[i] = x[i / 16] * x[i % 16];
      for (std::int64_t position = 30; position < 37; ++position) {
        Tensor turned = Tensor::of<double>(x, {1, 1, 16});
        table.apply(turned, position);
        for (std::size_t i = 0; i < 16; ++i) mean[i] += turned.data<double>()[i] / 7;
      }
      const AverageRotation average(spec, 16, 30, 7);
      const std::vector<double> vector = average.vector(x), matrix = average.matrix(outer);
      for (std::size_t i = 0; i < 16; ++i) {
        EXPECT_NEAR(vector[i], mean[i], 1e-6);  // cos and sin of the table are f32
        for (std::size_t j = 0; j < 16; ++j)
          EXPECT_NEAR(matrix[i * 16 + j], vector[i] * vector[j], 1e-12);
      }
    }
  }
  EXPECT_THAT(AverageRotation({}, 2, 5, 3).vector(std::vector<double>{1, 2}), ElementsAre(1, 2));
}

}  // namespace
}  // namespace quire::cache

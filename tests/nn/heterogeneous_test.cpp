#include "quire/nn/heterogeneous.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <cmath>
#include <cstring>

#include "tests/support/message_of.h"

namespace quire::nn {
namespace {

using test::message_of;

Tensor random(Rng& rng, Shape shape) {
  Tensor out = Tensor::empty(std::move(shape), DType::kF32);
  for (std::int64_t i = 0; i < out.elements(); ++i) out.mutable_data<float>()[i] = rng.normal();
  return out;
}

/// Tokens [begin, end) of all sequences.
Tensor tokens(const Tensor& x_BTD, std::int64_t begin, std::int64_t end) {
  return x_BTD.slice(1, begin, end).contiguous_copy();
}

bool same_bits(const Tensor& a, const Tensor& b) {
  return a.shape() == b.shape() &&
         std::memcmp(a.data<float>(), b.data<float>(), static_cast<std::size_t>(a.bytes())) == 0;
}

double error(const Tensor& a, const Tensor& b) {
  double off = 0, size = 0;
  for (std::int64_t i = 0; i < b.elements(); ++i) {
    const double x = b.data<float>()[i], d = double{a.data<float>()[i]} - x;
    off += d * d;
    size += x * x;
  }
  return std::sqrt(off / size);
}

HeterogeneousSpec spec_with(const cache::SearchBudget& budget) {
  HeterogeneousSpec spec;
  spec.cache.budget = budget;
  spec.cache.recent = 32;
  spec.cache.staging = 64;
  spec.capacity = 700;
  return spec;
}

TEST(HeterogeneousAttention, HET_08_at_full_budget_it_is_self_attention_with_a_cache) {
  for (const Sees sees : {Sees::kAll, Sees::kCausal}) {
    Rng rng(1), same(1);
    HeterogeneousAttention layer(64, 3, rng, spec_with({.fraction = 1}), sees);
    const SelfAttention<Tensor> plain(64, same);
    EXPECT_EQ(layer.layer_idx(), 3);
    const Tensor x = random(rng, {2, 600, 64});
    AttentionCache<Tensor> past(700);
    EXPECT_TRUE(same_bits(layer(tokens(x, 0, 500)), plain(tokens(x, 0, 500), past, sees)));
    for (std::int64_t t = 500; t < 560; ++t) {
      if (t == 510) layer.build();
      if (t == 540) layer.offload();
      ASSERT_TRUE(same_bits(layer(tokens(x, t, t + 1)), plain(tokens(x, t, t + 1), past, sees)))
          << t;
    }
    EXPECT_GT(layer.cache(1).zones(0).context, 400);
  }
}

TEST(HeterogeneousAttention, HET_08_with_grouped_queries_and_in_pieces) {
  Rng rng(2);
  const AttentionWeights<Tensor> weights = attention_init<Tensor>(64, 4, 2, rng);
  HeterogeneousAttention layer(4, 2, weights, 0, spec_with({.tokens = 1000}), Sees::kCausal);
  const GroupedQueryAttention<Tensor> plain(4, 2, weights);
  const Tensor x = random(rng, {1, 400, 64});
  AttentionCache<Tensor> past(400);
  for (const auto& [begin, end] : {std::pair{0, 200}, {200, 300}, {300, 301}, {301, 400}}) {
    if (begin == 300) layer.build();
    EXPECT_TRUE(
        same_bits(layer(tokens(x, begin, end)), plain(tokens(x, begin, end), past, Sees::kCausal)));
  }
}

TEST(HeterogeneousAttention, a_small_budget_comes_near_and_search_says_what_it_found) {
  Rng rng(3);
  const AttentionWeights<Tensor> weights = attention_init<Tensor>(64, 4, 2, rng);
  HeterogeneousSpec spec = spec_with({.tokens = 60});
  HeterogeneousAttention layer(4, 2, weights, 0, spec);
  spec.cache.estimate = false;
  HeterogeneousAttention forgetful(4, 2, weights, 0, spec);
  const GroupedQueryAttention<Tensor> plain(4, 2, weights);
  const Tensor x = random(rng, {1, 601, 64}), document = tokens(x, 0, 600);
  AttentionCache<Tensor> past(601);
  plain(document, past);
  for (HeterogeneousAttention* one : {&layer, &forgetful}) {
    (*one)(document);
    one->build();
  }
  const Tensor last = tokens(x, 600, 601), out = layer(last), truth = plain(last, past);
  EXPECT_LT(error(out, truth), 0.4 * error(forgetful(last), truth));
  const cache::SearchResult found = layer.search(0, layer.queries(last).view({4, 16}), 60);
  ASSERT_EQ(found.heads_G.size(), 2u);
  for (const cache::FoundTokens& head : found.heads_G) {
    EXPECT_LE(head.positions.size(), 60u);
    EXPECT_GT(head.positions.size(), 30u);
  }
}

TEST(HeterogeneousAttention, errors_say_what_was_wrong) {
  Rng rng(4);
  HeterogeneousAttention layer(32, 0, rng, spec_with({.fraction = 1}));
  EXPECT_THAT(message_of([&] { layer.cache(0); }), testing::HasSubstr("sequence 0 of 0"));
  layer(random(rng, {2, 5, 32}));
  EXPECT_THAT(message_of([&] {
                layer(random(rng, {3, 5, 32}));
              }),
              testing::HasSubstr("3 sequences, but the layer remembers 2"));
  EXPECT_THAT(message_of([&] {
                layer(random(rng, {2, 5, 32}).to(DType::kF16));
              }),
              testing::HasSubstr("f16"));
  layer.build();
  EXPECT_THAT(message_of([&] {
                layer(random(rng, {2, 5, 32}));
              }),
              testing::HasSubstr("one by one"));
}

}  // namespace
}  // namespace quire::nn

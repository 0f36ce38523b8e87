#include "quire/cache/policy_cache.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include "quire/cache/contiguous.h"
#include "quire/cache/policies/policies.h"
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

constexpr DType kStored[] = {DType::kF32, DType::kF16, DType::kBF16, DType::kI8};

std::vector<LayerSpec> some_layers() {
  return {layer_of(4, 2, 16, 16), layer_of(6, 2, 32, 16), layer_of(3, 3, 64, 32)};
}

TEST(PolicyCache, a_budget_that_covers_the_context_gives_the_bits_of_a_contiguous_cache) {
  const std::vector<LayerSpec> layers = some_layers();
  for (const std::string& name : policy_names()) {
    for (const DType kv : kStored) {
      Rng rng(1);
      const Step all = random_step(rng, layers, 420);
      for (const Budget budget : {Budget{.tokens = 1000}, Budget{.fraction = 1}}) {
        const auto cache = make_policy_cache(name, budget, layers, 420, kv);
        ContiguousCache exact(layers, 420, name == "int8" ? DType::kI8 : kv);
        for (const auto& [begin, end] : {std::pair{0, 200}, {200, 300}, {300, 301}, {301, 420}}) {
          if (begin == 300) cache->end_reading();
          const Step step = part(all, begin, end);
          ASSERT_TRUE(same_bits(feed(*cache, step), feed(exact, step))) << name << " " << begin;
        }
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
      const Step all = random_step(rng, layers, 700);
      PolicyCache cache(layers, std::make_unique<Everything>(decide), {.tokens = 1}, 700, kv);
      ContiguousCache exact(layers, 700, kv);
      for (const auto& [begin, end] : {std::pair{0, 531}, {531, 532}, {532, 560}, {560, 700}}) {
        const Step step = part(all, begin, end);
        ASSERT_TRUE(same_bits(feed(cache, step), feed(exact, step))) << begin;
        if (begin == 0) cache.end_reading();
      }
    }
  }
}

}  // namespace
}  // namespace quire::cache

// A fault that another prefix cache had, as a case that ours passes.

#include <gtest/gtest.h>

#include <numeric>

#include "quire/cache/contiguous.h"
#include "quire/cache/paged.h"
#include "tests/cache/steps.h"

namespace quire::cache {
namespace {

using test::feed;
using test::layer_of;
using test::part;
using test::random_step;
using test::same_bits;
using test::Step;
using Ids = std::vector<std::int32_t>;

TEST(PagedDefects, INF_03_B14_two_readers_of_one_prompt_do_not_write_into_each_other) {
  // A prompt that ends within a page: the second reader takes over whole pages only, and what
  // either appends behind the prompt is its own. Whoever shares the partial page writes into the
  // other's.
  const std::vector<LayerSpec> layers = {layer_of(4, 2, 32, 32), layer_of(3, 1, 20, 12)};
  for (const DType kv : {DType::kF32, DType::kBF16, DType::kI8}) {
    for (const std::int64_t prompt : {1, 15, 16, 17, 37, 48}) {
      PagedSpec spec;
      spec.layers = layers;
      spec.kv = kv;
      spec.budget_tokens = 640;
      spec.page_tokens = 16;
      spec.identity = "a model";
      const auto pool = std::make_shared<PagedPool>(spec);
      Rng rng(3);
      const Step all = random_step(rng, layers, prompt), a = random_step(rng, layers, 20),
                 b = random_step(rng, layers, 20);
      Ids ids(static_cast<std::size_t>(prompt));
      std::iota(ids.begin(), ids.end(), 5);
      PagedCache left(pool, 200), right(pool, 200);
      feed(left, all, ids);
      const std::int64_t found = right.adopt(ids);
      EXPECT_EQ(found, prompt / 16 * 16);
      if (found < prompt) feed(right, part(all, found, prompt), {ids.begin() + found, ids.end()});
      std::vector<float> of_left, of_right;
      for (std::int64_t n = 0; n < 20; ++n) {  // in turns, past the end of the page
        const Ids next_a = {static_cast<std::int32_t>(100 + n)},
                  next_b = {static_cast<std::int32_t>(200 + n)};
        for (const float x : feed(left, part(a, n, n + 1), next_a)) of_left.push_back(x);
        for (const float x : feed(right, part(b, n, n + 1), next_b)) of_right.push_back(x);
      }
      for (const auto& [own, got] : {std::pair(&a, &of_left), std::pair(&b, &of_right)}) {
        ContiguousCache alone(layers, 200, kv);
        feed(alone, all);
        std::vector<float> expected;
        for (std::int64_t n = 0; n < 20; ++n)
          for (const float x : feed(alone, part(*own, n, n + 1))) expected.push_back(x);
        EXPECT_TRUE(same_bits(*got, expected)) << to_string(kv) << ", a prompt of " << prompt;
      }
    }
  }
}

}  // namespace
}  // namespace quire::cache

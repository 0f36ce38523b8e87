#include "cli/near_session.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include "tests/support/message_of.h"

namespace quire::cli {
namespace {

using quire::test::message_of;
using testing::HasSubstr;

model::ModelConfig trained_for(std::int64_t context) {
  model::ModelConfig config;
  config.context = context;
  return config;
}

CacheChoice choice(const std::string& kind, std::optional<std::int64_t> budget = {}) {
  CacheChoice out;
  out.kind = kind;
  out.budget = budget;
  out.positions = "cache";
  return out;
}

TEST(NearSession, half_of_the_trained_context_is_near_or_a_window_of_the_budget) {
  for (const char* kind : {"window", "tiered"}) {
    const cache::NearSpec spec = near_spec(choice(kind), trained_for(8192));
    EXPECT_EQ(spec.near + spec.sinks, 4096) << kind;
    EXPECT_EQ(spec.far.has_value(), std::string(kind) == "tiered");
  }
  EXPECT_EQ(near_spec(choice("window", 8192), trained_for(8192)).near, 8176);
  // Of far tokens.
  const cache::NearSpec far = near_spec(choice("tiered", 100), trained_for(8192));
  EXPECT_EQ(far.near, 4080);
  EXPECT_EQ(far.far->budget.tokens, 100);
  EXPECT_THAT(message_of([&] { near_spec(choice("window", 8193), trained_for(8192)); }),
              AllOf(HasSubstr("8193"), HasSubstr("8192")));
  EXPECT_THAT(message_of([&] { near_spec(choice("window"), trained_for(64)); }),
              HasSubstr("trained for 64 tokens"));
}

TEST(NearSession, memory_is_counted_for_what_the_cache_keeps) {
  const auto file =
      model::ModelFile::open(std::string(QUIRE_SOURCE_DIR) + "/tests/goldens/tiny/llama.gguf");
  const model::MemoryPlan plan = file->plan(1, DType::kF16);
  // Two tables of 4 bytes for each number of a head that turns.
  const auto angles = [&](std::int64_t tokens) {
    return (8 * file->config().rope.rotary * tokens + plan.cache_per_token - 1) /
           plan.cache_per_token;
  };
  const auto held = [&](const CacheChoice& of, std::int64_t document, std::int64_t tokens) {
    return near_tokens_held(near_spec(of, trained_for(8192)), *file, DType::kF16, document,
                            tokens) -
           angles(tokens);
  };
  // The window, what waits to be dropped, the sinks again, and all of the answer.
  EXPECT_EQ(held(choice("window", 1016), 100'000, 100'200), 1000 + 511 + 16 + 200);
  EXPECT_EQ(held(choice("window", 1016), 200'000, 200'200), 1000 + 511 + 16 + 200);
  EXPECT_EQ(held(choice("window", 1016), 500, 600), 600 + 16);
  // With all that is far.
  EXPECT_EQ(held(choice("tiered"), 100'000, 100'200), 4080 + 511 + 16 + 200 + 100'200 - 4080);
}

}  // namespace
}  // namespace quire::cli

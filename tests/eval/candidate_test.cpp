#include "quire/eval/candidate.h"

#include <gtest/gtest.h>

#include "tests/eval/tiny.h"

namespace quire::eval {
namespace {

TEST(FirstQueryWanted, IsWhatTheCacheJudgesKeysBy) {
  const auto model = test::tiny_llama();
  const auto wanted = [&](const Candidate& candidate) {
    return first_query_wanted(*candidate.make(200, 210), 200);
  };
  EXPECT_EQ(wanted(test::contiguous(*model)), 200);
  EXPECT_EQ(wanted(test::policy(*model, "window", 20)), 200);
  EXPECT_EQ(wanted(test::policy(*model, "quest", 64)), 200) << "it looks at keys alone";
  EXPECT_EQ(wanted(test::policy(*model, "snapkv", 80)), 136) << "its window has 64 tokens";
  EXPECT_EQ(wanted(test::policy(*model, "h2o", 20)), 0);
  EXPECT_EQ(wanted(test::policy(*model, "expected_attention", 20)), 0);
  const auto snapkv = test::policy(*model, "snapkv", 80).make(40, 50);
  EXPECT_EQ(first_query_wanted(*snapkv, 40), 0) << "a document shorter than the window";
}

}  // namespace
}  // namespace quire::eval

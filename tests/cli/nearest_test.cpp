#include "cli/nearest.h"

#include <gtest/gtest.h>

#include <string>
#include <vector>

namespace quire::cli {
namespace {

const std::vector<std::string> kWords{"--max-tokens", "--min-p", "--top-k", "--top-p", "--file"};

TEST(Nearest, FindsTheWordThatWasMeant) {
  EXPECT_EQ(nearest("--max-token", kWords), "--max-tokens");   // begins it
  EXPECT_EQ(nearest("--max-tokesn", kWords), "--max-tokens");  // neighbours swapped
  EXPECT_EQ(nearest("--maxtokens", kWords), "--max-tokens");
  EXPECT_EQ(nearest("--flie", kWords), "--file");
  EXPECT_EQ(nearest("--top-p", kWords), "--top-p");
}

TEST(Nearest, SaysNothingWhenNothingIsNear) {
  EXPECT_EQ(nearest("--quantization-groups", kWords), "");
  EXPECT_EQ(nearest(std::string(100'000, 'x'), kWords), "");
  EXPECT_EQ(nearest("", {}), "");
}

}  // namespace
}  // namespace quire::cli

#include "quire/ops/matmul/embedding.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <cstring>
#include <vector>

#include "quire/base/error.h"
#include "tests/ops/matmul/weight_case.h"

namespace quire::test {
namespace {

TEST(Embedding, RowsBitForBit) {
  for (const WeightType type : kTypes) {
    const WeightCase table(type, 37, 64);
    const std::vector<std::int32_t> ids = {36, 0, 16, 15, 0, 31, 36};
    const Tensor out = embedding(ids, table.weight);
    ASSERT_EQ(out.shape(), (Shape{7, 64}));
    for (std::size_t n = 0; n < ids.size(); ++n)
      EXPECT_EQ(std::memcmp(out.data<float>() + n * 64,
                            table.values.data() + static_cast<std::size_t>(ids[n]) * 64, 256),
                0)
          << to_string(type) << ", id " << ids[n];
  }
}

TEST(Embedding, NoIds) {
  const WeightCase table(WeightType::kF16, 3, 5);
  EXPECT_EQ(embedding({}, table.weight).shape(), (Shape{0, 5}));
}

TEST(Embedding, Errors) {
  const WeightCase table(WeightType::kF16, 3, 5);
  const std::vector<std::int32_t> high = {0, 2, 3}, low = {-1};
  EXPECT_THAT([&] { (void)embedding(high, table.weight); },
              testing::ThrowsMessage<ArgumentError>("ids[2] is 3, but the table has V = 3"));
  EXPECT_THAT([&] { (void)embedding(low, table.weight); },
              testing::ThrowsMessage<ArgumentError>("ids[0] is -1, but the table has V = 3"));
}

}  // namespace
}  // namespace quire::test

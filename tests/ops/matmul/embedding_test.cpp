#include "quire/ops/matmul/embedding.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <cstring>
#include <vector>

#include "quire/base/error.h"
#include "tests/ops/matmul/weight_case.h"
#include "tests/support/gradient_check.h"

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

TEST(Embedding, OfATrainedTable) {
  const Tensor table = tensor_of({1, 2, 3, 4, 5, 6}, {3, 2}), ids = index_of({2, 0, 2, 1}, {2, 2});
  const Tensor out = embedding(ids, table);
  EXPECT_EQ(out.shape(), Shape({2, 2, 2}));
  EXPECT_EQ(values(out), (std::vector<double>{5, 6, 1, 2, 5, 6, 3, 4}));
  EXPECT_EQ(values(embedding(ids.to(DType::kI32).transpose(0, 1), table)),
            (std::vector<double>{5, 6, 5, 6, 1, 2, 3, 4}));
  const Tensor dout = random_tensor({2, 2, 2}, 1);
  expect_gradients([&](const auto& in) { return embedding(ids, in[0]); }, {table}, dout,
                   {embedding_backward(dout, ids, 3)});
}

TEST(Embedding, ErrorsOfATrainedTable) {
  const Tensor table = Tensor::zeros({3, 2}, DType::kF32);
  EXPECT_THROW((void)embedding(index_of({0, 3}, {2}), table), ArgumentError);
  EXPECT_THROW((void)embedding(index_of({-1}, {1}), table), ArgumentError);
  EXPECT_THROW((void)embedding(Tensor::zeros({2}, DType::kF32), table), ArgumentError);
  EXPECT_THROW((void)embedding(index_of({0}, {1}), Tensor::zeros({3}, DType::kF32)), ArgumentError);
  EXPECT_THROW((void)embedding_backward(table, index_of({0, 1}, {2}), 3), ArgumentError);
}

}  // namespace
}  // namespace quire::test

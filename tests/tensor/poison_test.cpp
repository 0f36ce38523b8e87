#include <gtest/gtest.h>

#include <cmath>
#include <cstdlib>

#include "quire/tensor/storage.h"
#include "quire/tensor/tensor.h"

namespace quire {
namespace {

// A program of its own, because the environment is read once.
const bool environment_is_set = ::setenv("QUIRE_POISON", "1", 1) == 0;

TEST(Poison, FillsNewMemoryAlsoWhenItWasUsedBefore) {
  ASSERT_TRUE(environment_is_set);
  for (int round = 0; round < 2; ++round) {
    Tensor x = Tensor::empty({50000}, DType::kF32);
    const float* data = x.data<float>();
    EXPECT_TRUE(std::isnan(data[0]));
    EXPECT_TRUE(std::isnan(data[49999]));
    x.mutable_data<float>()[0] = 1;
  }
  const Tensor zero = Tensor::zeros({3}, DType::kI32);
  EXPECT_EQ(zero.data<std::int32_t>()[2], 0);
}

}  // namespace
}  // namespace quire

#include "quire/ops/math/elementwise.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <vector>

#include "quire/base/error.h"
#include "quire/base/thread_pool.h"
#include "quire/tensor/rng.h"
#include "tests/support/f32_tensors.h"

namespace quire {
namespace {

using test::f32_tensor;
using test::floats_of;
using testing::ElementsAre;
using testing::ThrowsMessage;

TEST(Add, HandWorked) {
  Tensor x = f32_tensor({1, 2, 3, 4}, {2, 2});
  add_(x, f32_tensor({10, 20, 30, 40}, {2, 2}));
  EXPECT_THAT(floats_of(x), ElementsAre(11, 22, 33, 44));
  add_(x, x);
  EXPECT_THAT(floats_of(x), ElementsAre(22, 44, 66, 88));
  add_(x, f32_tensor({1, 2}, {2, 1}).expand({2, 2}));
  EXPECT_THAT(floats_of(x), ElementsAre(23, 45, 68, 90));
}

TEST(Add, EveryLengthAndNoFurther) {
  for (const std::int64_t n : {0, 1, 15, 16, 17, 31, 32, 33, 70001}) {
    Rng rng(5);
    Tensor x = Tensor::empty({n + 1}, DType::kF32), y = Tensor::empty({n}, DType::kF32);
    for (std::int64_t i = 0; i <= n; ++i) x.mutable_data<float>()[i] = rng.normal();
    for (std::int64_t i = 0; i < n; ++i) y.mutable_data<float>()[i] = rng.normal();
    const std::vector<float> before = floats_of(x);
    Tensor front = x.slice(0, 0, n);
    for (const int threads : {1, 2, 7}) {
      set_threads(threads);
      Tensor fresh = f32_tensor(before, {n + 1});
      Tensor part = fresh.slice(0, 0, n);
      add_(part, y);
      for (std::int64_t i = 0; i < n; ++i) {
        ASSERT_EQ(fresh.data<float>()[i], before[static_cast<std::size_t>(i)] + y.data<float>()[i]);
      }
      ASSERT_EQ(fresh.data<float>()[n], before.back());
    }
  }
  set_threads(1);
}

TEST(Add, CountsAVersion) {
  Tensor x = f32_tensor({1}, {1});
  const std::uint64_t before = x.version();
  add_(x, f32_tensor({1}, {1}));
  EXPECT_EQ(x.version(), before + 1);
}

TEST(Add, Errors) {
  Tensor x = Tensor::zeros({2, 3}, DType::kF32);
  EXPECT_THAT(
      [&] {
        add_(x, Tensor::zeros({2, 4}, DType::kF32));
      },
      ThrowsMessage<ArgumentError>("add_: dimension 1 of x is 3, but of y it is 4"));
  EXPECT_THAT([&] { add_(x, Tensor::zeros({3}, DType::kF32)); },
              ThrowsMessage<ArgumentError>("add_: x has rank 2, but y has rank 1"));
  EXPECT_THAT(
      [&] {
        add_(x, Tensor::zeros({2, 3}, DType::kF16));
      },
      ThrowsMessage<ArgumentError>("add_: y is f16, expected f32"));
  Tensor whole = Tensor::zeros({2, 3}, DType::kI32);
  EXPECT_THAT([&] { add_(whole, x); },
              ThrowsMessage<ArgumentError>("add_: x is i32, expected f32"));
  Tensor gaps = x.slice(1, 0, 2);
  EXPECT_THAT(
      [&] {
        add_(gaps, Tensor::zeros({2, 2}, DType::kF32));
      },
      ThrowsMessage<ArgumentError>("add_: x of shape [2, 2] is not contiguous"));
}

}  // namespace
}  // namespace quire

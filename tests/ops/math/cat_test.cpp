#include "quire/ops/math/cat.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <array>

#include "quire/base/error.h"
#include "tests/support/gradient_check.h"

namespace quire {
namespace {

using test::index_of;
using test::random_tensor;
using test::tensor_of;
using test::values;
using testing::ElementsAre;
using testing::ThrowsMessage;

TEST(Cat, HandWorked) {
  const std::array parts = {index_of({1, 2}, {1, 2}), index_of({3, 4, 5, 6}, {2, 2})};
  EXPECT_THAT(values(cat(parts, 0)), ElementsAre(1, 2, 3, 4, 5, 6));
  const std::array sides = {index_of({1, 2}, {2, 1}), index_of({3, 4, 5, 6}, {2, 2})};
  EXPECT_THAT(values(cat(sides, -1)), ElementsAre(1, 3, 4, 2, 5, 6));
  EXPECT_EQ(cat(sides, 1).dtype(), DType::kI64);
}

TEST(Cat, ASliceIsEachPartAgainForEveryDtypeAndDimension) {
  for (const DType dtype : {DType::kF64, DType::kF32, DType::kBF16, DType::kF16}) {
    for (int dim = 0; dim < 3; ++dim) {
      std::vector<Tensor> parts;
      for (const std::int64_t size : {1, 0, 5, 33}) {
        Shape shape = {2, 3, 4};
        shape[static_cast<std::size_t>(dim)] = size;
        parts.push_back(random_tensor(shape, static_cast<std::uint64_t>(size), dtype));
      }
      const Tensor out = cat(parts, dim);
      std::int64_t at = 0;
      for (const Tensor& part : parts) {
        EXPECT_EQ(values(out.slice(dim, at, at + part.size(dim))), values(part));
        at += part.size(dim);
      }
      EXPECT_EQ(out.size(dim), at);
    }
  }
}

TEST(Cat, BytesAndStrides) {
  const std::array<std::uint8_t, 6> bytes = {1, 2, 3, 4, 5, 6};
  const Tensor x = Tensor::of(std::span<const std::uint8_t>(bytes), {2, 3});
  const std::array parts = {x.transpose(0, 1), x.slice(1, 1, 2).expand({2, 2}).slice(0, 0, 1)};
  const Tensor out = cat(parts, 0);
  const std::vector<std::uint8_t> found(out.data<std::uint8_t>(), out.data<std::uint8_t>() + 8);
  EXPECT_THAT(found, ElementsAre(1, 4, 2, 5, 3, 6, 2, 2));
}

TEST(Cat, OnePartIsACopyAndNoElementsAreFine) {
  const Tensor x = random_tensor({3}, 1);
  const std::array one = {x};
  const Tensor out = cat(one, 0);
  EXPECT_NE(out.data<double>(), x.data<double>());
  const std::array none = {Tensor::zeros({0, 4}, DType::kF32), Tensor::zeros({0, 4}, DType::kF32)};
  EXPECT_EQ(cat(none, 0).shape(), Shape({0, 4}));
  EXPECT_EQ(cat(none, 1).shape(), Shape({0, 8}));
}

TEST(Cat, Errors) {
  const Tensor x = Tensor::zeros({2, 3}, DType::kF32);
  const std::array ragged = {x, Tensor::zeros({2, 4}, DType::kF32)};
  EXPECT_THAT(
      [&] { (void)cat(ragged, 0); },
      ThrowsMessage<ArgumentError>("cat: dimension 1 of parts[1] is 4, but of parts[0] it is 3"));
  const std::array mixed = {x, Tensor::zeros({2, 3}, DType::kF64)};
  EXPECT_THAT([&] { (void)cat(mixed, 0); },
              ThrowsMessage<ArgumentError>("cat: parts[1] is f64, but parts[0] is f32"));
  const std::array ranks = {x, Tensor::zeros({3}, DType::kF32)};
  EXPECT_THROW((void)cat(ranks, 0), ArgumentError);
  EXPECT_THROW((void)cat(std::span<const Tensor>(), 0), ArgumentError);
  const std::array scalars = {tensor_of({1}, {}), tensor_of({1}, {})};
  EXPECT_THROW((void)cat(scalars, 0), ArgumentError);
  EXPECT_THAT([&] { (void)cat(ragged, 2); },
              ThrowsMessage<ArgumentError>("cat: dim is 2, but the rank is 2"));
  const std::array<std::uint8_t, 1> byte = {1};
  const Tensor huge =
      Tensor::of(std::span<const std::uint8_t>(byte), {1}).expand({std::int64_t{1} << 62});
  const std::array overflow = {huge, huge, huge};
  EXPECT_THROW((void)cat(overflow, 0), ArgumentError);
}

}  // namespace
}  // namespace quire

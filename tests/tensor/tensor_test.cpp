#include "quire/tensor/tensor.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <cmath>
#include <limits>
#include <numeric>
#include <vector>

#include "quire/base/error.h"
#include "quire/base/half.h"
#include "quire/tensor/rng.h"

namespace quire {
namespace {

using testing::ElementsAre;
using testing::HasSubstr;
using testing::ThrowsMessage;

template <class T>
Tensor of(std::vector<T> values, Shape shape) {
  return Tensor::of(std::span<const T>(values), std::move(shape));
}

Tensor counting(Shape shape) {
  Tensor out = Tensor::empty(std::move(shape), DType::kI32);
  std::int32_t* data = out.mutable_data<std::int32_t>();
  std::iota(data, data + out.elements(), 0);
  return out;
}

template <class T>
std::vector<T> values(const Tensor& x) {
  const Tensor rows = x.contiguous_copy();
  const T* data = rows.data<T>();
  return {data, data + rows.elements()};
}

std::vector<std::int32_t> ints(const Tensor& x) { return values<std::int32_t>(x); }

TEST(Tensor, DefaultIsEmpty) {
  const Tensor x;
  EXPECT_THAT(x.shape(), ElementsAre(0));
  EXPECT_EQ(x.dtype(), DType::kF32);
  EXPECT_EQ(x.elements(), 0);
  EXPECT_EQ(x.bytes(), 0);
  EXPECT_EQ(x.data<float>(), nullptr);
  EXPECT_TRUE(x.contiguous());
  EXPECT_EQ(x.version(), 0u);
  Tensor copy = x;
  EXPECT_EQ(copy.mutable_data<void>(), nullptr);
}

TEST(Tensor, KnowsSizesAndStrides) {
  const Tensor x = Tensor::empty({2, 3, 4}, DType::kF64);
  EXPECT_EQ(x.rank(), 3);
  EXPECT_THAT(x.strides(), ElementsAre(12, 4, 1));
  EXPECT_EQ(x.elements(), 24);
  EXPECT_EQ(x.bytes(), 192);
  EXPECT_EQ(x.size(1), 3);
  EXPECT_EQ(x.size(-1), 4);
  EXPECT_EQ(x.size(-3), 2);
  EXPECT_THROW((void)x.size(3), ArgumentError);
  EXPECT_THROW((void)x.size(-4), ArgumentError);
  EXPECT_EQ(x.device(), Device::kCpu);
}

TEST(Tensor, RankZeroHoldsOneElement) {
  const Tensor x = of<float>({2.5f}, {});
  EXPECT_EQ(x.rank(), 0);
  EXPECT_EQ(x.elements(), 1);
  EXPECT_EQ(*x.data<float>(), 2.5f);
  EXPECT_EQ(values<double>(x.to(DType::kF64))[0], 2.5);
  EXPECT_THROW((void)x.size(0), ArgumentError);
}

TEST(Tensor, ZerosAreZero) {
  for (const DType dtype : {DType::kF64, DType::kBF16, DType::kI8, DType::kBool}) {
    const Tensor x = Tensor::zeros({5, 7}, dtype);
    const std::byte* data = static_cast<const std::byte*>(x.data<void>());
    for (std::int64_t i = 0; i < x.bytes(); ++i) ASSERT_EQ(data[i], std::byte{0});
  }
}

TEST(Tensor, RefusesImpossibleShapes) {
  EXPECT_THAT(
      [] {
        (void)Tensor::empty({2, -1}, DType::kF32);
      },
      ThrowsMessage<ArgumentError>(HasSubstr("[2, -1] has the negative size -1")));
  constexpr std::int64_t kBig = std::int64_t{1} << 31;
  EXPECT_THROW((void)Tensor::empty({kBig, kBig, 2}, DType::kU8), ArgumentError);
  EXPECT_THROW((void)Tensor::empty({kBig, kBig}, DType::kI16), ArgumentError);
  EXPECT_THROW((void)Tensor::empty({kBig, kBig, kBig, kBig, kBig}, DType::kU8), ArgumentError);
  EXPECT_THROW((void)Tensor::empty({0, kBig, kBig, 2}, DType::kU8), ArgumentError);
  EXPECT_EQ(Tensor::empty({0, kBig}, DType::kF32).elements(), 0);
  EXPECT_THROW((void)Tensor::empty({1}, DType::kF32, Device::kCuda), DeviceError);
}

TEST(Tensor, DataChecksTheType) {
  Tensor x = Tensor::zeros({1}, DType::kF32);
  EXPECT_THAT([&] { (void)x.data<double>(); },
              ThrowsMessage<ArgumentError>("the tensor is f32, but was read as f64"));
  EXPECT_THROW((void)x.mutable_data<std::int32_t>(), ArgumentError);
  EXPECT_NE(x.data<void>(), nullptr);
  EXPECT_NE(x.mutable_data<void>(), nullptr);
}

TEST(Tensor, EveryDtypeHasItsType) {
  const auto check = [](auto one, DType dtype) {
    using T = decltype(one);
    const Tensor x = Tensor::of(std::span<const T>(&one, 1), {1});
    EXPECT_EQ(x.dtype(), dtype);
    EXPECT_EQ(size_of(dtype), sizeof(T));
    EXPECT_NE(x.data<T>(), nullptr);
  };
  check(1.0, DType::kF64);
  check(1.0f, DType::kF32);
  check(BFloat16{1}, DType::kBF16);
  check(Half{1}, DType::kF16);
  check(std::int64_t{1}, DType::kI64);
  check(std::int32_t{1}, DType::kI32);
  check(std::int16_t{1}, DType::kI16);
  check(std::int8_t{1}, DType::kI8);
  check(std::uint8_t{1}, DType::kU8);
  check(true, DType::kBool);
}

TEST(Tensor, OfNeedsAsManyValues) {
  EXPECT_THAT(
      [] {
        of<float>({1, 2, 3}, {2, 2});
      },
      ThrowsMessage<ArgumentError>("of: 3 values for shape [2, 2]"));
  EXPECT_EQ(of<float>({}, {3, 0}).elements(), 0);
}

TEST(Tensor, WrapKeepsTheOwnerAlive) {
  auto owner = std::make_shared<std::vector<float>>(6, 1.0f);
  std::weak_ptr<std::vector<float>> watch = owner;
  {
    Tensor view;
    {
      Tensor x = Tensor::wrap(owner->data(), {2, 3}, DType::kF32, owner);
      x.mutable_data<float>()[4] = 7;
      EXPECT_EQ((*owner)[4], 7);
      owner.reset();
      view = x.slice(0, 1, 2);
    }
    EXPECT_FALSE(watch.expired());
    EXPECT_EQ(view.data<float>()[1], 7);
  }
  EXPECT_TRUE(watch.expired());
  EXPECT_THROW((void)Tensor::wrap(nullptr, {1}, DType::kF32), ArgumentError);
  EXPECT_THROW((void)Tensor::wrap(nullptr, {-1}, DType::kF32), ArgumentError);
  EXPECT_EQ(Tensor::wrap(nullptr, {0}, DType::kF32).data<float>(), nullptr);
}

TEST(Tensor, CopiesShareStorage) {
  Tensor x = Tensor::zeros({3}, DType::kI32);
  Tensor y = x;
  y.mutable_data<std::int32_t>()[1] = 5;
  EXPECT_THAT(ints(x), ElementsAre(0, 5, 0));
}

TEST(Tensor, SliceIsAView) {
  const Tensor x = counting({3, 4});
  EXPECT_THAT(ints(x.slice(0, 1, 3)), ElementsAre(4, 5, 6, 7, 8, 9, 10, 11));
  EXPECT_THAT(ints(x.slice(-1, 1, 3)), ElementsAre(1, 2, 5, 6, 9, 10));
  EXPECT_THAT(ints(x.slice(1, 1, 3).slice(0, 2, 3)), ElementsAre(9, 10));
  EXPECT_TRUE(x.slice(0, 1, 3).contiguous());
  EXPECT_FALSE(x.slice(1, 1, 3).contiguous());
  EXPECT_TRUE(x.slice(1, 1, 3).slice(0, 0, 1).contiguous()) << "one row has no gaps";
  EXPECT_EQ(x.slice(0, 3, 3).elements(), 0);
  EXPECT_EQ(x.slice(0, 1, 2).data<std::int32_t>(), x.data<std::int32_t>() + 4);
}

TEST(Tensor, SliceNamesTheDimension) {
  const Tensor x = counting({3, 4});
  EXPECT_THAT([&] { (void)x.slice(1, 2, 5); },
              ThrowsMessage<ArgumentError>("slice: [2, 5) of dimension 1, whose size is 4"));
  EXPECT_THROW((void)x.slice(0, -1, 2), ArgumentError);
  EXPECT_THROW((void)x.slice(0, 2, 1), ArgumentError);
  EXPECT_THAT([&] { (void)x.slice(2, 0, 1); },
              ThrowsMessage<ArgumentError>("slice: dimension 2 of a tensor of rank 2"));
}

TEST(Tensor, TransposeIsAView) {
  const Tensor x = counting({2, 3});
  const Tensor t = x.transpose(0, -1);
  EXPECT_THAT(t.shape(), ElementsAre(3, 2));
  EXPECT_FALSE(t.contiguous());
  EXPECT_THAT(ints(t), ElementsAre(0, 3, 1, 4, 2, 5));
  EXPECT_EQ(t.data<std::int32_t>(), x.data<std::int32_t>());
  EXPECT_THAT(ints(counting({2, 2, 2}).transpose(0, 2)), ElementsAre(0, 4, 2, 6, 1, 5, 3, 7));
  EXPECT_THROW((void)x.transpose(0, 2), ArgumentError);
}

TEST(Tensor, ExpandRepeatsWithoutCopying) {
  const Tensor x = counting({3, 1});
  const Tensor wide = x.expand({2, -1, 2});
  EXPECT_THAT(wide.strides(), ElementsAre(0, 1, 0));
  EXPECT_THAT(ints(wide), ElementsAre(0, 0, 1, 1, 2, 2, 0, 0, 1, 1, 2, 2));
  EXPECT_THAT(x.expand({0, 3, 1}).shape(), ElementsAre(0, 3, 1));
  EXPECT_THAT(
      [&] {
        (void)x.expand({4, 1});
      },
      ThrowsMessage<ArgumentError>("expand: dimension 0 is 3, not 1, and cannot become 4"));
  EXPECT_THROW((void)x.expand({3}), ArgumentError);
  EXPECT_THROW((void)x.expand({-1, 3, 1}), ArgumentError) << "a new dimension has no size to keep";
  EXPECT_THROW((void)x.expand({std::int64_t{1} << 62, 3, 1}), ArgumentError);
}

TEST(Tensor, ViewRegroups) {
  const Tensor x = counting({2, 6});
  const Tensor y = x.view({3, -1});
  EXPECT_THAT(y.shape(), ElementsAre(3, 4));
  EXPECT_EQ(y.data<std::int32_t>(), x.data<std::int32_t>());
  EXPECT_THAT(x.view({-1}).shape(), ElementsAre(12));
  EXPECT_THAT(counting({0, 3}).view({-1, 3}).shape(), ElementsAre(0, 3));
  EXPECT_THAT(counting({0, 3}).view({0, -1}).shape(), ElementsAre(0, 0));
  EXPECT_THAT(of<float>({1}, {}).view({1, 1}).shape(), ElementsAre(1, 1));
  EXPECT_THROW((void)x.view({5, -1}), ArgumentError);
  EXPECT_THROW((void)x.view({-1, -1}), ArgumentError);
  EXPECT_THROW((void)x.view({-2, -6}), ArgumentError);
  EXPECT_THROW((void)x.view({0, -1}), ArgumentError);
  EXPECT_THAT([&] { (void)x.view({11}); }, ThrowsMessage<ArgumentError>(HasSubstr("11 elements")));
  EXPECT_THAT([&] { (void)x.transpose(0, 1).view({12}); },
              ThrowsMessage<ArgumentError>(HasSubstr("[6, 2] is not contiguous")));
}

TEST(Tensor, ContiguousCopyCopiesOnlyWhenItMust) {
  const Tensor x = counting({2, 3, 4});
  EXPECT_EQ(x.contiguous_copy().data<std::int32_t>(), x.data<std::int32_t>());
  const Tensor t = x.transpose(1, 2);
  const Tensor copy = t.contiguous_copy();
  EXPECT_TRUE(copy.contiguous());
  EXPECT_NE(copy.data<std::int32_t>(), x.data<std::int32_t>());
  EXPECT_THAT(copy.slice(0, 1, 2).contiguous_copy().shape(), ElementsAre(1, 4, 3));
  EXPECT_EQ(ints(copy)[13], 16);
}

TEST(Tensor, ContiguousCopyServesEveryElementSize) {
  for (const DType dtype :
       {DType::kI8, DType::kI16, DType::kI32, DType::kI64, DType::kF16, DType::kF64}) {
    const Tensor x = counting({3, 5}).to(dtype).transpose(0, 1).contiguous_copy();
    EXPECT_THAT(values<double>(x.to(DType::kF64)),
                ElementsAre(0, 5, 10, 1, 6, 11, 2, 7, 12, 3, 8, 13, 4, 9, 14));
  }
}

TEST(Tensor, EmptyAndExpandedAreContiguousOrNot) {
  EXPECT_TRUE(Tensor::empty({0, 5}, DType::kF32).transpose(0, 1).contiguous());
  EXPECT_FALSE(counting({1, 3}).expand({2, 3}).contiguous());
  EXPECT_TRUE(counting({2, 1, 3}).transpose(0, 1).contiguous());
  EXPECT_EQ(counting({2, 3}).slice(0, 1, 1).transpose(0, 1).contiguous_copy().elements(), 0);
}

TEST(TensorTo, FloatingTypesRoundOnceToNearestEven) {
  const std::vector<double> from = {0.0,
                                    -0.0,
                                    1.0 / 3,
                                    65504,
                                    65519.999,
                                    65520,
                                    1e-8,
                                    -2.98023223876953125e-8,
                                    1e40,
                                    -1e-300,
                                    1 + 0x1p-11 + 0x1p-40,
                                    1 + 0x1p-11};
  const std::vector<Half> half = values<Half>(of<double>(from, {12}).to(DType::kF16));
  EXPECT_EQ(half[0].bits, 0x0000);
  EXPECT_EQ(half[1].bits, 0x8000);
  EXPECT_EQ(half[2].bits, 0x3555);
  EXPECT_EQ(half[3].bits, 0x7bff);
  EXPECT_EQ(half[4].bits, 0x7bff) << "rounding through f32 would give infinity";
  EXPECT_EQ(half[5].bits, 0x7c00);
  EXPECT_EQ(half[6].bits, 0x0000);
  EXPECT_EQ(half[7].bits, 0x8000) << "half of the least number ties to even";
  EXPECT_EQ(half[8].bits, 0x7c00);
  EXPECT_EQ(half[9].bits, 0x8000);
  EXPECT_EQ(half[10].bits, 0x3c01) << "rounding through f32 would tie down";
  EXPECT_EQ(half[11].bits, 0x3c00);
  const std::vector<BFloat16> brain = values<BFloat16>(
      of<double>({1 + 0x1p-8 + 0x1p-50, 1 + 0x1p-8, -1e300, 0x1p-133, 3.3895313892515355e38}, {5})
          .to(DType::kBF16));
  EXPECT_EQ(brain[0].bits, 0x3f81);
  EXPECT_EQ(brain[1].bits, 0x3f80);
  EXPECT_EQ(brain[2].bits, 0xff80);
  EXPECT_EQ(brain[3].bits, 0x0001);
  EXPECT_EQ(brain[4].bits, 0x7f7f);
}

TEST(TensorTo, ShortTypesWidenExactly) {
  Tensor every = Tensor::empty({1 << 16}, DType::kF16);
  std::uint16_t* bits = static_cast<std::uint16_t*>(every.mutable_data<void>());
  for (int i = 0; i < 1 << 16; ++i) bits[i] = static_cast<std::uint16_t>(i);
  const std::vector<Half> back = values<Half>(every.to(DType::kF64).to(DType::kF16));
  const std::vector<Half> through_f32 = values<Half>(every.to(DType::kF32).to(DType::kF16));
  for (std::uint32_t i = 0; i < 1u << 16; ++i) {
    if ((i & 0x7fff) > 0x7c00) continue;  // NaN: the payload is free
    ASSERT_EQ(back[i].bits, i);
    ASSERT_EQ(through_f32[i].bits, i);
  }
  EXPECT_TRUE(std::isnan(to_float(back[0x7e00])));
}

TEST(TensorTo, IntegersConvertWhenTheyFit) {
  EXPECT_THAT(values<std::int8_t>(of<std::int64_t>({-128, 127}, {2}).to(DType::kI8)),
              ElementsAre(-128, 127));
  const bool flags[] = {true, false};
  EXPECT_THAT(values<float>(Tensor::of(std::span<const bool>(flags), {2}).to(DType::kF32)),
              ElementsAre(1, 0));
  EXPECT_THAT(
      [] {
        (void)of<std::int32_t>({1, 300}, {2}).to(DType::kU8);
      },
      ThrowsMessage<ArgumentError>(HasSubstr("the value 300 does not fit")));
  EXPECT_THROW((void)of<std::int32_t>({-1}, {1}).to(DType::kU8), ArgumentError);
  EXPECT_THROW((void)of<std::int32_t>({2}, {1}).to(DType::kBool), ArgumentError);
  EXPECT_THAT(values<std::int64_t>(of<std::int32_t>({0, 1}, {2}).to(DType::kBool).to(DType::kI64)),
              ElementsAre(0, 1));
}

TEST(TensorTo, IntegersRoundOnce) {
  constexpr std::int64_t kTie =
      (std::int64_t{1} << 62) + (std::int64_t{1} << 54);  // between two bf16
  const std::vector<BFloat16> rounded = values<BFloat16>(
      of<std::int64_t>({kTie, kTie + 1, kTie - 1, -kTie - 1}, {4}).to(DType::kBF16));
  EXPECT_EQ(rounded[0].bits, 0x5e80);
  EXPECT_EQ(rounded[1].bits, 0x5e81);
  EXPECT_EQ(rounded[2].bits, 0x5e80);
  EXPECT_EQ(rounded[3].bits, 0xde81);
  EXPECT_THAT(values<float>(of<std::int64_t>({(1 << 24) + 1, (1 << 24) + 3}, {2}).to(DType::kF32)),
              ElementsAre(16777216.0f, 16777220.0f));
}

TEST(TensorTo, FloatingToIntegerIsRefused) {
  EXPECT_THAT([] { (void)of<float>({1}, {1}).to(DType::kI32); },
              ThrowsMessage<ArgumentError>(HasSubstr("f32 does not convert to i32")));
}

TEST(TensorTo, CopiesEvenToTheSameTypeAndFromViews) {
  const Tensor x = counting({2, 3});
  const Tensor same = x.to(DType::kI32);
  EXPECT_NE(same.data<std::int32_t>(), x.data<std::int32_t>());
  EXPECT_EQ(ints(same), ints(x));
  EXPECT_THAT(values<float>(x.transpose(0, 1).to(DType::kF32)), ElementsAre(0, 3, 1, 4, 2, 5));
}

TEST(ToString, OfShapes) {
  EXPECT_EQ(to_string(Shape{2, 3, 4}), "[2, 3, 4]");
  EXPECT_EQ(to_string(Shape{}), "[]");
}

}  // namespace
}  // namespace quire

// kv_write into bytes, where a row has no proper scale; and pages that contradict themselves.

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <cmath>
#include <string>
#include <vector>

#include "quire/base/error.h"
#include "quire/ops/attention/kv_write.h"
#include "tests/ops/attention/paged_case.h"

namespace quire::test {
namespace {

/// Two slots of one page with G heads of K bytes.
struct BytePages {
  BytePages(std::int64_t G, std::int64_t K)
      : k(static_cast<std::size_t>(2 * G * K)),
        v(k.size()),
        k_scale(static_cast<std::size_t>(2 * G)),
        v_scale(k_scale.size()) {
    pages.k_pages = k.data();
    pages.v_pages = v.data();
    pages.k_strides = pages.v_strides = {2 * G * K, G * K, K};
    pages.dtype = DType::kI8;
    pages.k_scale_PZG = k_scale.data();
    pages.v_scale_PZG = v_scale.data();
    pages.P = 1;
    pages.Z = 2;
    pages.G = G;
    pages.K = pages.U = K;
  }
  std::vector<std::int8_t> k, v;
  std::vector<float> k_scale, v_scale;
  KvPages pages;
};

Tensor slots(std::vector<std::int64_t> values) {
  return Tensor::of(std::span<const std::int64_t>(values),
                    {static_cast<std::int64_t>(values.size())});
}

TEST(KvWriteRange, WhatIsNotFiniteMakesTheScaleNan) {
  for (const float bad : {kNan, kInfinity, -kInfinity}) {
    for (const std::size_t place : {std::size_t{0}, std::size_t{7}, std::size_t{19}}) {
      BytePages to(2, 20);
      std::vector<float> x(80, 1.0f);
      x[place] = bad;  // of token 0, head 0
      const Tensor x_NGK = Tensor::of(std::span<const float>(x), {2, 2, 20});
      kv_write(to.pages, x_NGK, x_NGK, slots({0, 1}));
      for (const std::vector<float>& scale : {to.k_scale, to.v_scale}) {
        EXPECT_TRUE(std::isnan(scale[0])) << bad;
        for (std::size_t i = 1; i < 4; ++i) EXPECT_EQ(scale[i], 1.0f / 127.0f) << bad;
      }
    }
  }
}

TEST(KvWriteRange, ZerosAndTinyNumbersStayTiny) {
  for (const float tiny : {0.0f, 1e-45f, 1e-39f, 3e-37f, 1e-30f}) {
    BytePages to(1, 4);
    const std::vector<float> row = {tiny, 0, -tiny, 0};
    const Tensor x_NGK = Tensor::of(std::span<const float>(row), {1, 1, 4});
    kv_write(to.pages, x_NGK, x_NGK, slots({0}));
    for (std::size_t k = 0; k < 4; ++k)
      EXPECT_LE(std::abs(static_cast<float>(to.k[k]) * to.k_scale[0] - row[k]), tiny) << tiny;
  }
}

TEST(KvWriteRange, PagesThatContradictThemselves) {
  BytePages to(1, 4);
  const Tensor x_NGK = Tensor::zeros({1, 1, 4}, DType::kF32);
  KvPages wrong = to.pages;
  wrong.dtype = DType::kF32;
  EXPECT_THAT(
      [&] { kv_write(wrong, x_NGK, x_NGK, slots({0})); },
      testing::ThrowsMessage<ArgumentError>(
          "pages are f32; kv_write stores f64, f32, bf16, f16, i4, i4h, i8h, and i8 with scales"));
}

}  // namespace
}  // namespace quire::test

// kv_write in f64, its slots in i32, and its backward.

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <vector>

#include "quire/base/error.h"
#include "quire/ops/attention/kv_write.h"
#include "tests/support/gradient_check.h"

namespace quire::test {
namespace {

using testing::HasSubstr;
using testing::ThrowsMessage;

/// Three pages of 16 slots, two heads, keys of 3 and values of 5 numbers.
template <class T>
struct Pages {
  explicit Pages(KLayout layout = KLayout::kRows) {
    pages.k_pages = k.data();
    pages.v_pages = v.data();
    pages.k_strides = {96, 3, 48};  // heads first
    pages.v_strides = {160, 10, 5};
    pages.k_layout = layout;
    pages.dtype = dtype_of<T>;
    pages.P = 3;
    pages.Z = 16;
    pages.G = 2;
    pages.K = 3;
    pages.U = 5;
  }
  std::vector<T> k = std::vector<T>(288, T{9}), v = std::vector<T>(480, T{9});
  KvPages pages;
};

template <class T>
void write_then_take(KLayout layout, std::int64_t N) {
  Pages<T> at(layout);
  // Slots of all pages; every fifth token is skipped.
  std::vector<std::int64_t> slots;
  for (std::int64_t n = 0; n < N; ++n) slots.push_back(n % 5 == 4 ? -1 : n * 7 % 48);
  const Tensor k = random_tensor({N, 2, 3}, 1, dtype_of<T>),
               v = random_tensor({N, 2, 5}, 2, dtype_of<T>);
  kv_write(at.pages, k, v, index_of(slots, {N}));
  const KvWriteGradients taken = kv_write_backward(at.pages, index_of(slots, {N}));
  std::vector<double> dk = values(k), dv = values(v);
  for (std::size_t n = 0; n < slots.size(); ++n) {
    if (slots[n] >= 0) continue;
    std::fill_n(dk.begin() + static_cast<std::ptrdiff_t>(6 * n), 6, 0.0);
    std::fill_n(dv.begin() + static_cast<std::ptrdiff_t>(10 * n), 10, 0.0);
  }
  EXPECT_EQ(values(taken.dk_NGK), dk);
  EXPECT_EQ(values(taken.dv_NGU), dv);
  EXPECT_EQ(taken.dk_NGK.dtype(), dtype_of<T>);
  // Taken slots are zero now, the others as they were.
  std::size_t zeros = 0, untouched = 0;
  for (const T x : at.k) zeros += x == T{0} ? 1 : 0, untouched += x == T{9} ? 1 : 0;
  const std::size_t tokens = static_cast<std::size_t>(N - N / 5);
  EXPECT_EQ(zeros, 6 * tokens);
  EXPECT_EQ(untouched, 288 - 6 * tokens);
}

TEST(KvWriteBackward, PAG_16_TakesWhatWasWritten) {
  for (const KLayout layout : {KLayout::kRows, KLayout::kBlocks}) {
    write_then_take<float>(layout, 40);
    write_then_take<double>(layout, 40);
    write_then_take<double>(layout, 0);
  }
}

TEST(KvWriteBackward, PAG_16_ASlotNamedTwiceIsTheLaterTokens) {
  Pages<float> at;
  const Tensor slots = index_of({5, 6, 5}, {3});
  kv_write(at.pages, random_tensor({3, 2, 3}, 1, DType::kF32),
           random_tensor({3, 2, 5}, 2, DType::kF32), slots);
  const std::vector<double> dk = values(kv_write_backward(at.pages, slots).dk_NGK);
  for (std::size_t i = 0; i < 6; ++i) {
    EXPECT_EQ(dk[i], 0);
    EXPECT_NE(dk[6 + i], 0);
    EXPECT_NE(dk[12 + i], 0);
  }
}

TEST(KvWriteBackward, PAG_16_SlotsOfI32AndI64) {
  Pages<float> x, y;
  const Tensor k = random_tensor({3, 2, 3}, 1, DType::kF32),
               v = random_tensor({3, 2, 5}, 2, DType::kF32);
  const std::vector<std::int32_t> slots = {40, -1, 7};
  const Tensor narrow = Tensor::of(std::span<const std::int32_t>(slots), {3});
  kv_write(x.pages, k, v, narrow);
  kv_write(y.pages, k, v, narrow.to(DType::kI64));
  EXPECT_EQ(x.k, y.k);
  EXPECT_EQ(x.v, y.v);
  EXPECT_EQ(values(kv_write_backward(x.pages, narrow).dk_NGK),
            values(kv_write_backward(y.pages, narrow.to(DType::kI64)).dk_NGK));
}

TEST(KvWriteBackward, Errors) {
  Pages<float> at;
  const auto expect_error = [&](const Tensor& slots, const std::string& text) {
    EXPECT_THAT([&] { kv_write_backward(at.pages, slots); },
                ThrowsMessage<ArgumentError>(HasSubstr(text)));
  };
  expect_error(index_of({48}, {1}), "slot_N[0] is 48, but the pages have 48 slots");
  expect_error(random_tensor({1}, 1, DType::kF32), "slot_N is f32; it must be i64 or i32");
  at.pages.dtype = DType::kBF16;
  expect_error(index_of({1}, {1}), "pages of gradients are bf16; they must be f32 or f64");
  at.pages.dtype = DType::kF64;
  EXPECT_THAT(
      [&] {
        kv_write(at.pages, Tensor::zeros({1, 2, 3}, DType::kF32),
                 Tensor::zeros({1, 2, 5}, DType::kF32), index_of({1}, {1}));
      },
      ThrowsMessage<ArgumentError>(HasSubstr("kv_write takes f64 for pages of f64")));
}

}  // namespace
}  // namespace quire::test

#include "quire/ops/attention/kv_write.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <cfloat>
#include <cmath>
#include <cstring>
#include <vector>

#include "quire/base/error.h"
#include "quire/base/half.h"
#include "quire/base/thread_pool.h"
#include "quire/ops/attention/attention.h"
#include "quire/tensor/rng.h"
#include "tests/reference/attention.h"
#include "tests/support/message_of.h"

namespace quire {
namespace {

using test::message_of;
using testing::AllOf;
using testing::HasSubstr;

constexpr DType kStored[] = {DType::kF32, DType::kF16, DType::kBF16, DType::kI8};
constexpr std::byte kUntouched{0xA5};

/// Pages of one form, filled with a pattern, so that a write outside its slot shows.
struct Pages {
  struct Form {
    DType dtype = DType::kF32;
    KLayout layout = KLayout::kRows;
    bool head_first = false;   // [G, Z, K] instead of [Z, G, K]; blocks always are
    std::int64_t padding = 0;  // elements between heads or slots
    std::int64_t P = 3, Z = 16, G = 2, K = 16, U = 16;
  };
  explicit Pages(const Form& f) : form(f) {
    kv.dtype = f.dtype;
    kv.k_layout = f.layout;
    kv.P = f.P, kv.Z = f.Z, kv.G = f.G, kv.K = f.K, kv.U = f.U;
    kv.k_strides = strides(f.K, f.head_first || f.layout == KLayout::kBlocks,
                           f.layout == KLayout::kBlocks ? 0 : f.padding);
    kv.v_strides = strides(f.U, f.head_first, f.padding);
    k.assign(static_cast<std::size_t>(f.P * kv.k_strides.page) * size_of(f.dtype), kUntouched);
    v.assign(static_cast<std::size_t>(f.P * kv.v_strides.page) * size_of(f.dtype), kUntouched);
    kv.k_pages = k.data(), kv.v_pages = v.data();
    if (f.dtype == DType::kI8) {
      k_scale.assign(static_cast<std::size_t>(f.P * f.Z * f.G), -7.0f);
      v_scale = k_scale;
      kv.k_scale_PZG = k_scale.data(), kv.v_scale_PZG = v_scale.data();
    }
  }
  PageStrides strides(std::int64_t size, bool head_first, std::int64_t padding) const {
    if (head_first) {
      const std::int64_t slot = size + padding, head = form.Z * slot + padding;
      return {form.G * head + padding, slot, head};
    }
    const std::int64_t head = size + padding, slot = form.G * head + padding;
    return {form.Z * slot + padding, slot, head};
  }
  /// The view that reads them.
  KvView view() const {
    KvView out;
    out.k_pages = k.data(), out.v_pages = v.data();
    out.k_strides = kv.k_strides, out.v_strides = kv.v_strides;
    out.k_layout = kv.k_layout, out.dtype = kv.dtype;
    out.k_scale_PZG = kv.k_scale_PZG, out.v_scale_PZG = kv.v_scale_PZG;
    out.P = kv.P, out.Z = kv.Z, out.G = kv.G, out.K = kv.K, out.U = kv.U;
    return out;
  }
  std::int64_t k_index(std::int64_t at, std::int64_t g, std::int64_t i) const {
    return ref::key_index(view(), at / form.Z, at % form.Z, g, i);
  }
  std::int64_t v_index(std::int64_t at, std::int64_t g, std::int64_t i) const {
    return at / form.Z * kv.v_strides.page + at % form.Z * kv.v_strides.slot +
           g * kv.v_strides.head + i;
  }
  bool operator==(const Pages& other) const {
    return k == other.k && v == other.v && k_scale == other.k_scale && v_scale == other.v_scale;
  }

  Form form;
  KvPages kv;
  std::vector<std::byte> k, v;
  std::vector<float> k_scale, v_scale;
};

/// One row of `n` numbers, element by element: what kv_write has to do.
template <class Index>
void put_row(std::vector<std::byte>& pages, DType dtype, float* scale, const float* x,
             std::int64_t n, const Index& index) {
  float largest = 0;
  for (std::int64_t i = 0; i < n; ++i) largest = std::max(largest, std::abs(x[i]));
  if (scale != nullptr) *scale = largest / 127.0f;
  for (std::int64_t i = 0; i < n; ++i) {
    std::byte* to = pages.data() + index(i) * static_cast<std::int64_t>(size_of(dtype));
    if (dtype == DType::kF32) std::memcpy(to, x + i, 4);
    const Half half = to_half(x[i]);
    if (dtype == DType::kF16) std::memcpy(to, &half, 2);
    const BFloat16 brain = to_bfloat16(x[i]);
    if (dtype == DType::kBF16) std::memcpy(to, &brain, 2);
    const auto q =
        static_cast<std::int8_t>(largest == 0 ? 0 : std::nearbyint(x[i] * (127.0f / largest)));
    if (dtype == DType::kI8) std::memcpy(to, &q, 1);
  }
}

void reference_write(Pages& to, const std::vector<float>& k, const std::vector<float>& v,
                     const std::vector<std::int64_t>& slots) {
  const Pages::Form& f = to.form;
  for (std::size_t n = 0; n < slots.size(); ++n) {
    if (slots[n] < 0) continue;
    for (std::int64_t g = 0; g < f.G; ++g) {
      const std::int64_t row = static_cast<std::int64_t>(n) * f.G + g, at = slots[n] * f.G + g;
      const bool scales = f.dtype == DType::kI8;
      put_row(to.k, f.dtype, scales ? &to.k_scale[static_cast<std::size_t>(at)] : nullptr,
              k.data() + row * f.K, f.K,
              [&](std::int64_t i) { return to.k_index(slots[n], g, i); });
      put_row(to.v, f.dtype, scales ? &to.v_scale[static_cast<std::size_t>(at)] : nullptr,
              v.data() + row * f.U, f.U,
              [&](std::int64_t i) { return to.v_index(slots[n], g, i); });
    }
  }
}

std::vector<float> random(std::int64_t count, std::uint64_t seed) {
  Rng rng(seed);
  std::vector<float> out;
  for (std::int64_t i = 0; i < count; ++i) out.push_back(rng.normal());
  return out;
}

Tensor tensor(const std::vector<float>& values, Shape shape) {
  return Tensor::of(std::span<const float>(values), std::move(shape));
}

Tensor slots_of(const std::vector<std::int64_t>& slots) {
  return Tensor::of(std::span<const std::int64_t>(slots),
                    {static_cast<std::int64_t>(slots.size())});
}

std::vector<Pages::Form> forms() {
  std::vector<Pages::Form> all;
  for (const DType dtype : kStored) {
    for (const std::int64_t K : {1, 15, 16, 17, 64}) {
      all.push_back({dtype, KLayout::kRows, false, 0, 3, 5, 2, K, K + 3});
      all.push_back({dtype, KLayout::kRows, true, 3, 3, 16, 3, K, 8});
      all.push_back({dtype, KLayout::kBlocks, true, 0, 3, 48, 2, K, K});
      all.push_back({dtype, KLayout::kBlocks, false, 5, 2, 16, 3, K, 20});
    }
  }
  return all;
}

TEST(KvWrite, PAG_01_PAG_16_T21_puts_every_number_in_its_place_and_touches_nothing_else) {
  for (const Pages::Form& form : forms()) {
    const std::int64_t slots = form.P * form.Z;
    // Over a page's and a block's end, backwards, skipped, and named twice.
    const std::vector<std::int64_t> slot = {0,          form.Z - 1, form.Z, slots - 1, -1, 3,
                                            form.Z + 2, 3,          -1,     1,         0};
    const auto N = static_cast<std::int64_t>(slot.size());
    const std::vector<float> k = random(N * form.G * form.K, 1), v = random(N * form.G * form.U, 2);
    Pages pages(form), expected(form);
    kv_write(pages.kv, tensor(k, {N, form.G, form.K}), tensor(v, {N, form.G, form.U}),
             slots_of(slot));
    reference_write(expected, k, v, slot);
    EXPECT_TRUE(pages == expected)
        << to_string(form.dtype) << (form.layout == KLayout::kBlocks ? " blocks" : " rows")
        << " K = " << form.K;
  }
}

TEST(KvWrite, rounds_to_nearest_and_ties_to_even) {
  struct Case {
    DType dtype;
    float x, stored;
  };
  const Case cases[] = {
      {DType::kF16, 1 + 0x1p-11f, 1},
      {DType::kF16, 1 + 3 * 0x1p-11f, 1 + 2 * 0x1p-10f},
      {DType::kF16, 1 + 0x1p-11f + 0x1p-20f, 1 + 0x1p-10f},
      {DType::kF16, -(1 + 0x1p-11f), -1},
      {DType::kF16, 65519, 65504},
      {DType::kF16, 65520, INFINITY},
      {DType::kF16, 0x1p-25f, 0},
      {DType::kF16, 3 * 0x1p-25f, 2 * 0x1p-24f},
      {DType::kF16, -0.0f, -0.0f},
      {DType::kBF16, 1 + 0x1p-8f, 1},
      {DType::kBF16, 1 + 3 * 0x1p-8f, 1 + 2 * 0x1p-7f},
      {DType::kBF16, 1 + 0x1p-8f + 0x1p-20f, 1 + 0x1p-7f},
      {DType::kBF16, -(1 + 3 * 0x1p-8f), -(1 + 2 * 0x1p-7f)},
      {DType::kBF16, FLT_MAX, INFINITY},
      {DType::kBF16, -0.0f, -0.0f},
      {DType::kF32, 0x1p-149f, 0x1p-149f},
      {DType::kF32, 0.1f, 0.1f},
  };
  for (const Case& c : cases) {
    for (const KLayout layout : {KLayout::kRows, KLayout::kBlocks}) {
      Pages pages({c.dtype, layout, true, 0, 1, 16, 1, 16, 16});
      const std::vector<float> x(16, c.x);
      kv_write(pages.kv, tensor(x, {1, 1, 16}), tensor(x, {1, 1, 16}), slots_of({5}));
      for (std::int64_t i = 0; i < 16; ++i) {
        const double key = ref::element(pages.k.data(), c.dtype, pages.k_index(5, 0, i));
        const double value = ref::element(pages.v.data(), c.dtype, pages.v_index(5, 0, i));
        EXPECT_EQ(key, double{c.stored}) << to_string(c.dtype) << " " << c.x;
        EXPECT_EQ(std::signbit(key), std::signbit(c.stored));
        EXPECT_EQ(value, double{c.stored}) << to_string(c.dtype) << " " << c.x;
      }
    }
  }
}

TEST(KvWrite, PAG_17_B13_bytes_are_called_i8_and_nothing_is_called_fp8_that_is_not) {
  // A byte of an 8-bit float has steps that grow with the number; these are even, and their type is
  // named by what it holds. There is no fp8, so none can be taken for one.
  const DType all[] = {DType::kF64, DType::kF32, DType::kBF16, DType::kF16, DType::kI64,
                       DType::kI32, DType::kI16, DType::kI8,   DType::kU8,  DType::kBool};
  for (const DType dtype : all)
    EXPECT_EQ(to_string(dtype).find("f8") + to_string(dtype).find("fp8"),
              2 * std::string_view::npos);
  EXPECT_EQ(to_string(DType::kI8), "i8");
  Pages pages({DType::kI8, KLayout::kRows, false, 0, 1, 1, 1, 255, 3});
  std::vector<float> k;
  for (int i = -127; i <= 127; ++i) k.push_back(static_cast<float>(i) * 0.25f);
  kv_write(pages.kv, tensor(k, {1, 1, 255}), tensor({0, 0, 0}, {1, 1, 3}), slots_of({0}));
  EXPECT_EQ(pages.k_scale[0], 0.25f);
  for (std::int64_t i = 0; i < 255; ++i)
    EXPECT_EQ(ref::element(pages.k.data(), DType::kI8, pages.k_index(0, 0, i)), i - 127) << i;
}

TEST(KvWrite, i8_takes_a_scale_for_each_token_and_head) {
  Pages pages({DType::kI8, KLayout::kRows, false, 0, 1, 4, 2, 8, 3});
  // The first head's largest is 127, so its scale is 1 and ties show; the second holds zeros.
  const std::vector<float> k = {127, 0.5f, 1.5f, 2.5f, -0.5f, -1.5f, -2.5f, 126.5f,
                                0,   0,    0,    0,    0,     0,     0,     0};
  const std::vector<float> v = {-254, 1, 3, 1e-3f, -2e-3f, 0};
  kv_write(pages.kv, tensor(k, {1, 2, 8}), tensor(v, {1, 2, 3}), slots_of({2}));
  const int expected_k[] = {127, 0, 2, 2, 0, -2, -2, 126, 0, 0, 0, 0, 0, 0, 0, 0};
  const int expected_v[] = {-127, 0, 2, 64, -127, 0};  // 0.5 and 1.5 halves; 63.5 ties to 64
  for (std::int64_t g = 0; g < 2; ++g) {
    for (std::int64_t i = 0; i < 8; ++i)
      EXPECT_EQ(ref::element(pages.k.data(), DType::kI8, pages.k_index(2, g, i)),
                expected_k[g * 8 + i])
          << g << ", " << i;
    for (std::int64_t i = 0; i < 3; ++i)
      EXPECT_EQ(ref::element(pages.v.data(), DType::kI8, pages.v_index(2, g, i)),
                expected_v[g * 3 + i])
          << g << ", " << i;
  }
  EXPECT_THAT(pages.k_scale, testing::ElementsAre(-7, -7, -7, -7, 1, 0, -7, -7));
  EXPECT_THAT(pages.v_scale, testing::ElementsAre(-7, -7, -7, -7, 2, 2e-3f / 127.0f, -7, -7));
}

TEST(KvWrite, i8_stays_within_half_a_step) {
  const std::int64_t N = 50;
  for (const float size : {1e-30f, 1e-3f, 1.0f, 1e30f, 1e-39f}) {
    Pages pages({DType::kI8, KLayout::kBlocks, true, 0, 1, 64, 2, 24, 40});
    std::vector<float> k = random(N * 2 * 24, 3), v = random(N * 2 * 40, 4);
    for (float& x : k) x *= size;
    for (float& x : v) x *= size;
    std::vector<std::int64_t> slots;
    for (std::int64_t n = 0; n < N; ++n) slots.push_back(n);
    kv_write(pages.kv, tensor(k, {N, 2, 24}), tensor(v, {N, 2, 40}), slots_of(slots));
    for (std::int64_t n = 0; n < N; ++n) {
      for (std::int64_t g = 0; g < 2; ++g) {
        const double scale = double{pages.k_scale[static_cast<std::size_t>(n * 2 + g)]};
        for (std::int64_t i = 0; i < 24; ++i) {
          const double x = double{k[static_cast<std::size_t>((n * 2 + g) * 24 + i)]};
          const double q = ref::element(pages.k.data(), DType::kI8, pages.k_index(n, g, i));
          // Below the smallest normal number only the size is kept.
          EXPECT_LE(std::abs(q * scale - x), scale * 0.50001 + double{FLT_MIN}) << size;
        }
      }
    }
  }
}

TEST(KvWrite, the_scale_of_an_i8_row_says_when_it_holds_what_is_not_finite) {
  for (const float wrong : {NAN, INFINITY, -INFINITY}) {
    Pages pages({DType::kI8, KLayout::kRows, false, 0, 1, 4, 2, 24, 24});
    std::vector<float> x = random(2 * 24, 15);
    x[20] = wrong;  // in the first head
    kv_write(pages.kv, tensor(x, {1, 2, 24}), tensor(x, {1, 2, 24}), slots_of({1}));
    EXPECT_TRUE(std::isnan(pages.k_scale[2])) << wrong;
    EXPECT_TRUE(std::isnan(pages.v_scale[2])) << wrong;
    EXPECT_TRUE(std::isfinite(pages.k_scale[3])) << wrong;
  }
}

TEST(KvWrite, inputs_may_have_any_strides) {
  for (const DType dtype : kStored) {
    const Pages::Form form{dtype, KLayout::kBlocks, true, 0, 1, 32, 2, 16, 24};
    Pages plain(form), strided(form);
    const Tensor k = tensor(random(2 * 7 * 16, 5), {2, 7, 16}).transpose(0, 1),
                 v = tensor(random(9 * 2 * 48, 6), {9, 2, 48}).slice(0, 1, 8).slice(2, 10, 34);
    const Tensor slots = slots_of({99, 4, 1, 30, 17, -1, 0, 2, 99}).slice(0, 1, 8);
    ASSERT_FALSE(k.contiguous());
    ASSERT_FALSE(v.contiguous());
    kv_write(strided.kv, k, v, slots);
    kv_write(plain.kv, k.contiguous_copy(), v.contiguous_copy(),
             slots_of({4, 1, 30, 17, -1, 0, 2}));
    EXPECT_TRUE(strided == plain) << to_string(dtype);
    // One token for many slots: strides of zero.
    Pages expanded(form), repeated(form);
    const Tensor one = tensor(random(2 * 16, 7), {1, 2, 16}),
                 two = tensor(random(2 * 24, 8), {1, 2, 24});
    kv_write(expanded.kv, one.expand({3, 2, 16}), two.expand({3, 2, 24}), slots_of({3, 8, 9}));
    for (const std::int64_t at : {3, 8, 9}) kv_write(repeated.kv, one, two, slots_of({at}));
    EXPECT_TRUE(expanded == repeated) << to_string(dtype);
  }
}

TEST(KvWrite, threads_do_not_change_a_byte_and_the_last_of_equal_slots_stays) {
  for (const DType dtype : kStored) {
    const Pages::Form form{dtype, KLayout::kBlocks, true, 0, 2, 160, 5, 64, 64};
    const std::int64_t N = 300;  // over the size from which threads share the work
    std::vector<std::int64_t> slots;
    Rng rng(9);
    for (std::int64_t n = 0; n < N; ++n) slots.push_back(static_cast<std::int64_t>(rng.below(320)));
    const std::vector<float> k = random(N * 5 * 64, 10), v = random(N * 5 * 64, 11);
    Pages expected(form);
    reference_write(expected, k, v, slots);
    for (const int threads : {1, 2, 3}) {
      set_threads(threads);
      Pages pages(form);
      kv_write(pages.kv, tensor(k, {N, 5, 64}), tensor(v, {N, 5, 64}), slots_of(slots));
      EXPECT_TRUE(pages == expected) << to_string(dtype) << ", " << threads << " threads";
    }
  }
}

TEST(KvWrite, PAG_16_attention_reads_what_was_written) {
  for (const DType dtype : kStored) {
    for (const KLayout layout : {KLayout::kRows, KLayout::kBlocks}) {
      Pages pages({dtype, layout, true, 0, 1, 64, 2, 16, 16});
      const std::vector<float> k = random(40 * 2 * 16, 12), v = random(40 * 2 * 16, 13);
      std::vector<std::int64_t> slots;
      for (std::int64_t n = 0; n < 40; ++n) slots.push_back(n);
      kv_write(pages.kv, tensor(k, {40, 2, 16}), tensor(v, {40, 2, 16}), slots_of(slots));
      KvView view = pages.view();
      const std::int64_t length = 40;
      view.length_BG = &length;
      AttentionSpec spec;
      spec.alignment = Alignment::kBottomRight;
      const std::vector<float> q = random(3 * 4 * 16, 14);
      const std::int32_t start[] = {0, 3};
      const Tensor out =
          attention(tensor(q, {3, 4, 16}), Tensor::of(std::span<const std::int32_t>(start), {2}),
                    view, spec)
              .out_NHU;
      const auto truth = ref::attention<double>(q, {0, 3}, 4, view, spec);
      for (std::int64_t i = 0; i < out.elements(); ++i)
        ASSERT_NEAR(double{out.data<float>()[i]}, truth.out_NHU[static_cast<std::size_t>(i)], 2e-6);
    }
  }
}

TEST(KvWrite, nothing_to_write_is_no_error) {
  Pages pages({}), untouched({});
  kv_write(pages.kv, Tensor::empty({0, 2, 16}, DType::kF32), Tensor::empty({0, 2, 16}, DType::kF32),
           Tensor::empty({0}, DType::kI64));
  kv_write(pages.kv, tensor(random(64, 1), {2, 2, 16}), tensor(random(64, 1), {2, 2, 16}),
           slots_of({-1, -1}));
  EXPECT_TRUE(pages == untouched);
  // A pool without pages and slots, too.
  KvPages none;
  none.G = 2, none.K = none.U = 16;
  kv_write(none, tensor(random(64, 1), {2, 2, 16}), tensor(random(64, 1), {2, 2, 16}),
           slots_of({-1, -1}));
}

class KvWriteErrors : public testing::TestWithParam<DType> {
 protected:
  Pages pages_{Pages::Form{GetParam()}}, untouched_{Pages::Form{GetParam()}};
  Tensor x_ = tensor(random(3 * 2 * 16, 1), {3, 2, 16});
};

TEST_P(KvWriteErrors, PAG_16_a_slot_out_of_range_is_named_and_nothing_is_written) {
  for (const std::int64_t wrong : {std::int64_t{48}, std::int64_t{-2}, INT64_MAX, INT64_MIN}) {
    EXPECT_THAT(message_of([&] {
                  kv_write(pages_.kv, x_, x_, slots_of({0, 1, wrong}));
                }),
                AllOf(HasSubstr("slot_N[2]"), HasSubstr(std::to_string(wrong)), HasSubstr("48")));
    EXPECT_TRUE(pages_ == untouched_);
  }
}

TEST_P(KvWriteErrors, wrong_shapes_and_dtypes_write_nothing) {
  const Tensor slots = slots_of({0, 1, 2});
  const Tensor head = tensor(random(3 * 16, 1), {3, 1, 16}), narrow = x_.slice(2, 0, 15),
               flat = tensor(random(48, 1), {3, 16}), doubles = x_.to(DType::kF64);
  EXPECT_THROW(kv_write(pages_.kv, x_, head, slots), ArgumentError);
  EXPECT_THROW(kv_write(pages_.kv, head, head, slots), ArgumentError);
  EXPECT_THROW(kv_write(pages_.kv, narrow, x_, slots), ArgumentError);
  EXPECT_THROW(kv_write(pages_.kv, x_, narrow, slots), ArgumentError);
  EXPECT_THROW(kv_write(pages_.kv, flat, flat, slots), ArgumentError);
  EXPECT_THROW(kv_write(pages_.kv, doubles, x_, slots), ArgumentError);
  EXPECT_THROW(kv_write(pages_.kv, x_, doubles, slots), ArgumentError);
  EXPECT_THROW(kv_write(pages_.kv, x_, x_, slots_of({0, 1})), ArgumentError);
  EXPECT_THROW(kv_write(pages_.kv, x_, x_, Tensor::zeros(slots.shape(), DType::kF32)),
               ArgumentError);
  EXPECT_TRUE(pages_ == untouched_);
}

TEST_P(KvWriteErrors, pages_that_cannot_be_written) {
  const Tensor slots = slots_of({0, 1, 2});
  for (const DType wrong : {DType::kF64, DType::kI16, DType::kU8, DType::kBool}) {
    KvPages kv = pages_.kv;
    kv.dtype = wrong;
    EXPECT_THAT(message_of([&] { kv_write(kv, x_, x_, slots); }),
                HasSubstr(std::string(to_string(wrong))));
  }
  KvPages kv = pages_.kv;
  kv.dtype = DType::kI8;
  kv.k_scale_PZG = nullptr;
  EXPECT_THAT(message_of([&] { kv_write(kv, x_, x_, slots); }), HasSubstr("scales"));
  kv = pages_.kv;
  kv.k_layout = KLayout::kBlocks;
  kv.Z = 20;
  EXPECT_THAT(message_of([&] { kv_write(kv, x_, x_, slots); }),
              AllOf(HasSubstr("20"), HasSubstr("16")));
  if (GetParam() == DType::kI8) {
    kv = pages_.kv;
    kv.dtype = DType::kF32;  // which has no scales
    EXPECT_THAT(message_of([&] { kv_write(kv, x_, x_, slots); }), HasSubstr("scales"));
  }
  EXPECT_TRUE(pages_ == untouched_);
}

INSTANTIATE_TEST_SUITE_P(EveryStorage, KvWriteErrors, testing::ValuesIn(kStored),
                         [](const auto& tested) { return std::string(to_string(tested.param)); });

}  // namespace
}  // namespace quire

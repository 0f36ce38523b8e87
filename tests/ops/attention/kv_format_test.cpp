#include "quire/ops/attention/kv_format.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <algorithm>
#include <cmath>
#include <cstring>
#include <limits>
#include <map>
#include <vector>

#include "quire/base/error.h"
#include "quire/base/half.h"
#include "quire/base/isa.h"
#include "quire/base/thread_pool.h"
#include "quire/ops/attention/attention.h"
#include "quire/ops/attention/attention_backward.h"
#include "quire/ops/attention/attention_mass.h"
#include "quire/ops/attention/hadamard.h"
#include "quire/ops/attention/kv_write.h"
#include "quire/tensor/rng.h"
#include "tests/support/message_of.h"

namespace quire {
namespace {

using test::message_of;
using testing::AllOf;
using testing::HasSubstr;

constexpr std::byte kUntouched{0xA5};
constexpr float kInfinity = std::numeric_limits<float>::infinity();
constexpr std::int64_t kSizes[] = {1, 2, 16, 31, 32, 33, 40, 64, 80, 100};

/// Pages of a grouped form, head by head, and the f32 pages that hold what they say.
struct Pages {
  Pages(DType dtype, KLayout layout, std::int64_t P, std::int64_t Z, std::int64_t G, std::int64_t K,
        std::int64_t U) {
    kv.dtype = dtype, kv.k_layout = layout;
    kv.P = P, kv.Z = Z, kv.G = G, kv.K = K, kv.U = U;
    const std::int64_t k_row = kv_row_stride(dtype, K), v_row = kv_row_stride(dtype, U);
    kv.k_strides = {G * Z * k_row, k_row, Z * k_row};
    kv.v_strides = {G * Z * v_row, v_row, Z * v_row};
    k.assign(static_cast<std::size_t>(P * G * Z * kv_row_bytes(dtype, K)), kUntouched);
    v.assign(static_cast<std::size_t>(P * G * Z * kv_row_bytes(dtype, U)), kUntouched);
    kv.k_pages = k.data(), kv.v_pages = v.data();
  }
  KvPages kv;
  std::vector<std::byte> k, v;
};

Tensor random(Shape shape, std::uint64_t seed, float spread = 1) {
  Rng rng(seed);
  Tensor out = Tensor::empty(std::move(shape), DType::kF32);
  for (std::int64_t i = 0; i < out.elements(); ++i)
    out.mutable_data<float>()[i] = spread * rng.normal();
  return out;
}

Tensor slots_of(std::int64_t first, std::int64_t N) {
  Tensor out = Tensor::empty({N}, DType::kI64);
  for (std::int64_t n = 0; n < N; ++n) out.mutable_data<std::int64_t>()[n] = first + n;
  return out;
}

/// A group as the contract of kv_format.h says it, number by number.
struct Group {
  Half scale, low;
  std::vector<int> codes;
  bool eight;  // of i8h: no lowest number
  float value(std::size_t i) const {
    const float s = to_float(scale), l = to_float(low), code = static_cast<float>(codes[i]);
    if (eight) return code * s;
    return isa() == Isa::kAvx512 ? std::fma(code, s, l) : code * s + l;
  }
};

Group rounded(const float* x, std::int64_t n, bool eight) {
  Group out;
  out.eight = eight;
  bool finite = true;
  for (std::int64_t i = 0; i < n; ++i) finite = finite && std::isfinite(x[i]);
  const float low = *std::min_element(x, x + n), high = *std::max_element(x, x + n);
  out.codes.assign(static_cast<std::size_t>(n), 0);
  if (!finite) {
    out.scale = out.low = to_half(std::numeric_limits<float>::quiet_NaN());
    return out;
  }
  out.low = eight ? Half{} : to_half(low + 0.0f);
  out.scale = to_half(eight ? std::max(std::abs(low), std::abs(high)) / 127.0f
                            : std::max(0.0f, (high - to_float(out.low)) / 15.0f));
  const float scale = to_float(out.scale);
  for (std::int64_t i = 0; scale > 0 && i < n; ++i) {
    const float code = std::nearbyint((x[i] - to_float(out.low)) * (1.0f / scale));
    out.codes[static_cast<std::size_t>(i)] =
        static_cast<int>(std::clamp(code, eight ? -127.0f : 0.0f, eight ? 127.0f : 15.0f));
  }
  return out;
}

/// One row into `to`, whose parts are `width` times as wide and belong to `lane`; what the row then
/// says goes to `says`.
void put_row(std::byte* to, std::int64_t width, std::int64_t lane, const float* x, std::int64_t n,
             bool eight, std::vector<float>* says) {
  for (std::int64_t k = 0; k < n; k += 32) {
    const std::int64_t size = std::min<std::int64_t>(32, n - k), half = (size + 1) / 2;
    const Group group = rounded(x + k, size, eight);
    std::memcpy(to + 2 * lane, &group.scale, 2);
    if (!eight) std::memcpy(to + 2 * width + 2 * lane, &group.low, 2);
    std::byte* codes = to + (eight ? 2 : 4) * width + lane;
    for (std::int64_t i = 0; i < (eight ? size : half); ++i) {
      const int above =
          !eight && half + i < size ? group.codes[static_cast<std::size_t>(half + i)] : 0;
      codes[i * width] =
          static_cast<std::byte>(group.codes[static_cast<std::size_t>(i)] | above << 4);
    }
    for (std::int64_t i = 0; says != nullptr && i < size; ++i)
      says->push_back(group.value(static_cast<std::size_t>(i)));
    to += width * (eight ? 2 + size : 4 + half);
  }
}

/// What kv_write has to do to one side; returns what is then stored, token by token.
std::vector<float> reference_side(std::vector<std::byte>& pages, DType dtype, const PageStrides& at,
                                  bool blocks, std::int64_t Z, const Tensor& x_NGK,
                                  const Tensor& slot_N) {
  std::vector<float> says;
  const std::int64_t G = x_NGK.size(1), K = x_NGK.size(2);
  for (std::int64_t n = 0; n < x_NGK.size(0); ++n) {
    const std::int64_t flat = slot_N.data<std::int64_t>()[n], slot = flat % Z;
    for (std::int64_t g = 0; g < G; ++g) {
      const std::int64_t lane = blocks ? slot % 16 : 0;
      std::byte* to = pages.data() + flat / Z * at.page + g * at.head + (slot - lane) * at.slot;
      put_row(to, blocks ? 16 : 1, lane, x_NGK.data<float>() + (n * G + g) * K, K,
              dtype == DType::kI8H, &says);
    }
  }
  return says;
}

TEST(KvFormatTest, INF_07_sizes_of_rows) {
  EXPECT_EQ(kv_row_bytes(DType::kF32, 64), 256);
  EXPECT_EQ(kv_row_bytes(DType::kI8, 64), 64);
  EXPECT_EQ(kv_row_bytes(DType::kI4, 64), 40);  // 5 bits a number
  EXPECT_EQ(kv_row_bytes(DType::kI4H, 80), 2 * 20 + 12);
  EXPECT_EQ(kv_row_bytes(DType::kI4, 33), 20 + 5);
  EXPECT_EQ(kv_row_bytes(DType::kI8H, 64), 2 * 34);  // as i8 with its scale
  EXPECT_EQ(kv_row_bytes(DType::kI8H, 33), 34 + 3);
  EXPECT_EQ(kv_row_stride(DType::kF16, 64), 64);
  EXPECT_EQ(kv_row_stride(DType::kI4, 64), 40);
  EXPECT_EQ(kv_bytes_per_token(DType::kI8, 3, 64, 64), 3 * (128 + 8));
  EXPECT_EQ(kv_bytes_per_token(DType::kI4H, 3, 64, 64), 3 * 80);
  EXPECT_EQ(kv_formats(), "f32, bf16, f16, i8, i4, i4h, i8h");
  EXPECT_FALSE(stores_kv(DType::kF64));
  EXPECT_FALSE(stores_kv(DType::kI16));
  EXPECT_THAT(message_of([] { kv_row_bytes(DType::kI32, 4); }),
              HasSubstr("keys and values cannot be stored as i32; they may be f32, bf16"));
}

TEST(KvFormatTest, INF_07_no_tensor_is_i4) {
  EXPECT_THAT(message_of([] { Tensor::empty({4}, DType::kI4); }),
              HasSubstr("i4 is a form of stored keys and values; a tensor cannot have it"));
}

TEST(KvFormatTest, INF_07_the_lanes_of_a_block_are_all_its_bytes) {
  for (const DType dtype : kKvForms) {
    for (const std::int64_t n : kSizes) {
      std::vector<int> times(static_cast<std::size_t>(16 * kv_row_bytes(dtype, n)), 0);
      each_kv_lane_part(dtype, n, [&](std::int64_t offset, std::int64_t bytes) {
        for (std::int64_t i = 0; i < 16 * bytes; ++i)
          ++times.at(static_cast<std::size_t>(offset + i));
      });
      EXPECT_THAT(times, testing::Each(1)) << to_string(dtype) << " " << n;
    }
  }
}

TEST(KvFormatTest, INF_07_PAG_16_writes_the_bytes_of_the_contract_and_no_others) {
  for (const KLayout layout : {KLayout::kRows, KLayout::kBlocks}) {
    for (const std::int64_t n : kSizes) {
      for (const DType dtype : {DType::kI4, DType::kI4H, DType::kI8H}) {
        const std::int64_t Z = layout == KLayout::kBlocks ? 32 : 5, U = 101 - n;
        Pages got(dtype, layout, 3, Z, 2, n, U), expected = got;
        const Tensor k = random({7, 2, n}, 1), v = random({7, 2, U}, 2);
        const Tensor slots = slots_of(Z - 3, 7);  // over the end of a page
        kv_write(got.kv, k, v, slots);
        reference_side(expected.k, dtype, got.kv.k_strides, layout == KLayout::kBlocks, Z,
                       turns_keys(dtype) ? hadamard(k) : k, slots);
        reference_side(expected.v, dtype, got.kv.v_strides, false, Z, v, slots);
        EXPECT_EQ(got.k, expected.k) << to_string(dtype) << " " << n;
        EXPECT_EQ(got.v, expected.v) << to_string(dtype) << " " << U;
      }
    }
  }
}

/// Row after row of `width` numbers through pages and back.
std::vector<float> through(DType dtype, const std::vector<float>& x, std::int64_t width) {
  const std::int64_t N = static_cast<std::int64_t>(x.size()) / width;
  Pages pages(dtype, KLayout::kRows, 1, N, 1, width, width);
  const Tensor rows = Tensor::of(std::span<const float>(x), {N, 1, width});
  kv_write(pages.kv, Tensor::zeros(rows.shape(), DType::kF32), rows, slots_of(0, N));
  // A query that sees one key alone gets its value.
  KvView view = view_of(pages.kv);
  std::vector<float> out;
  for (std::int64_t n = 0; n < N; ++n) {
    const std::int64_t one = 1;
    KvView key = view;
    key.v_pages = pages.v.data() + n * pages.kv.v_strides.slot;
    key.k_pages = pages.k.data() + n * pages.kv.k_strides.slot;
    key.length_BG = &one;
    const std::vector<std::int32_t> start = {0, 1};
    const AttentionResult result =
        attention(Tensor::zeros({1, 1, width}, DType::kF32),
                  Tensor::of(std::span<const std::int32_t>(start), {2}), key, {});
    const float* p = result.out_NHU.data<float>();
    out.insert(out.end(), p, p + width);
  }
  return out;
}

TEST(KvFormatTest, INF_07_the_round_trip_is_off_by_half_a_step_at_most) {
  Rng rng(3);
  std::vector<float> x;
  for (int i = 0; i < 50 * 64; ++i) x.push_back(rng.normal() * std::exp(2 * rng.normal()));
  const std::vector<float> back = through(DType::kI4, x, 64), eight = through(DType::kI8H, x, 64);
  for (std::size_t g = 0; g < x.size(); g += 32) {
    const auto [low, high] = std::minmax_element(x.data() + g, x.data() + g + 32);
    const float step = (*high - *low) / 15,
                half_ulp = 0x1p-11f * std::max(std::abs(*low), step * 15);
    const float step8 = std::max(std::abs(*low), std::abs(*high)) / 127;
    for (std::size_t i = g; i < g + 32; ++i) {
      EXPECT_LE(std::abs(back[i] - x[i]), step / 2 + 2 * half_ulp) << i;
      // The scale may have been rounded down by 2^-11, of which the largest has 127.
      EXPECT_LE(std::abs(eight[i] - x[i]), step8 * (0.5f + 127 * 0x1p-11f)) << i;
    }
  }
}

TEST(KvFormatTest, INF_07_equal_numbers_zeros_and_ends_of_the_range) {
  std::vector<float> x(32 * 4, 0.0f);
  for (int i = 0; i < 32; ++i) {
    x[static_cast<std::size_t>(32 + i)] = 1.5f;  // a whole group of one number
    x[static_cast<std::size_t>(64 + i)] = i == 5 ? 65504.0f : -65504.0f;
    x[static_cast<std::size_t>(96 + i)] = i % 2 == 0 ? -0.0f : 0.0f;
  }
  const std::vector<float> back = through(DType::kI4, x, 32), eight = through(DType::kI8H, x, 32);
  for (int i = 0; i < 64; ++i) {
    const float number = x[static_cast<std::size_t>(i)];
    EXPECT_NEAR(eight[static_cast<std::size_t>(i)], number, 0x1p-11f * number) << i;
  }
  for (int i = 64; i < 96; ++i)
    EXPECT_NEAR(eight[static_cast<std::size_t>(i)], x[static_cast<std::size_t>(i)], 64) << i;
  for (int i = 96; i < 128; ++i) EXPECT_EQ(eight[static_cast<std::size_t>(i)], 0.0f);
  for (int i = 0; i < 64; ++i)
    EXPECT_EQ(back[static_cast<std::size_t>(i)], x[static_cast<std::size_t>(i)]) << i;
  for (int i = 64; i < 96; ++i)
    EXPECT_NEAR(back[static_cast<std::size_t>(i)], x[static_cast<std::size_t>(i)], 64) << i;
  for (int i = 96; i < 128; ++i) EXPECT_EQ(back[static_cast<std::size_t>(i)], 0.0f);
}

TEST(KvFormatTest, INF_07_what_is_not_finite_shows_in_its_group_and_no_other) {
  for (const float bad : {std::numeric_limits<float>::quiet_NaN(), kInfinity, -kInfinity, 1e6f}) {
    std::vector<float> x(64, 1.0f);
    x[40] = bad;
    const std::vector<float> back = through(DType::kI4, x, 64);
    for (std::size_t i = 0; i < 32; ++i) EXPECT_EQ(back[i], 1.0f);
    // 1e6 is a step of 66666 away from 1: beyond f16.
    EXPECT_FALSE(std::isfinite(back[40])) << bad;
    x[40] = std::isfinite(bad) ? 1e7f : bad;  // beyond 127 · 65504
    const std::vector<float> eight = through(DType::kI8H, x, 64);
    for (std::size_t i = 0; i < 32; ++i) EXPECT_NEAR(eight[i], 1.0f, 0x1p-11f);
    EXPECT_FALSE(std::isfinite(eight[40])) << bad;
  }
}

/// What attention is asked: ragged queries over pages that lie anywhere.
struct Case {
  std::int64_t Z = 64, K = 64, U = 64, first = 0;
  KLayout layout = KLayout::kBlocks;
  DType dtype = DType::kI4;
};

/// The same keys and values as pages of a grouped form, and as f32 pages of what those say.
struct Both {
  explicit Both(const Case& c)
      : pages(c.dtype, c.layout, kP, c.Z, kG, c.K, c.U),
        plain(DType::kF32, c.layout, kP, c.Z, kG, c.K, c.U) {
    const std::int64_t W = (kLength + c.Z - 1) / c.Z;
    Tensor slot_N = Tensor::empty({2 * kLength}, DType::kI64);
    for (std::int64_t b = 0; b < 2; ++b) {
      for (std::int64_t w = 0; w < W; ++w)
        table.push_back(static_cast<std::int32_t>((w * 2 + b) * 7 % kP));
      for (std::int64_t s = 0; s < kLength; ++s)
        slot_N.mutable_data<std::int64_t>()[b * kLength + s] =
            table[static_cast<std::size_t>(b * W + s / c.Z)] * c.Z + s % c.Z;
    }
    const Tensor k = random({2 * kLength, kG, c.K}, 5), v = random({2 * kLength, kG, c.U}, 6);
    kv_write(pages.kv, k, v, slot_N);
    std::vector<std::byte> k_again = pages.k, v_again = pages.v;
    const std::vector<float> k_says =
        reference_side(k_again, c.dtype, pages.kv.k_strides, c.layout == KLayout::kBlocks, c.Z,
                       turns_keys(c.dtype) ? hadamard(k) : k, slot_N);
    const std::vector<float> v_says =
        reference_side(v_again, c.dtype, pages.kv.v_strides, false, c.Z, v, slot_N);
    kv_write(plain.kv, Tensor::of(std::span<const float>(k_says), k.shape()),
             Tensor::of(std::span<const float>(v_says), v.shape()), slot_N);
    first.assign(2, c.first);
  }
  KvView view(const Pages& of) const {
    KvView out = view_of(of.kv);
    out.table = table.data(), out.W = static_cast<std::int64_t>(table.size()) / 2;
    out.length_BG = length.data(), out.first_BG = first.data();
    return out;
  }
  static constexpr std::int64_t kP = 640, kG = 2, kLength = 300;
  Pages pages, plain;
  std::vector<std::int32_t> table;
  std::vector<std::int64_t> length = {kLength, kLength - 37}, first;
};

std::vector<Case> cases() {
  std::vector<Case> out;
  for (const DType dtype : {DType::kI4, DType::kI4H, DType::kI8H}) {
    for (const std::int64_t Z : {1, 5, 16, 48, 64, 320}) {
      for (const std::int64_t K : {64, 20, 80}) {
        for (const std::int64_t first : {0, 16, 37}) {
          if (first != 0 && Z != 5 && Z != 48) continue;
          out.push_back({Z, K, K == 80 ? 33 : K, first, KLayout::kRows, dtype});
          if (Z % 16 == 0) out.push_back({Z, K, K == 80 ? 33 : K, first, KLayout::kBlocks, dtype});
        }
      }
    }
  }
  return out;
}

std::string name_of(const Case& c) {
  return concat(to_string(c.dtype), " Z ", c.Z, " K ", c.K, " U ", c.U, " first ", c.first,
                c.layout == KLayout::kBlocks ? " blocks" : " rows");
}

bool same_bits(const Tensor& a, const Tensor& b) {
  return a.shape() == b.shape() &&
         std::memcmp(a.data<float>(), b.data<float>(), static_cast<std::size_t>(a.bytes())) == 0;
}

TEST(KvFormatTest, PAG_17_attention_gives_the_bits_of_f32_pages_that_hold_what_they_say) {
  const std::vector<std::int32_t> starts = {0, 40, 41};
  const Tensor start_J = Tensor::of(std::span<const std::int32_t>(starts), {3});
  AttentionSpec spec;
  spec.alignment = Alignment::kBottomRight;
  spec.window_right = 0;
  for (const Case& c : cases()) {
    const Both both(c);
    const Tensor q = random({41, 4, c.K}, 7), turned = turns_keys(c.dtype) ? hadamard(q) : q;
    const AttentionResult got = attention(q, start_J, both.view(both.pages), spec),
                          expected = attention(turned, start_J, both.view(both.plain), spec);
    EXPECT_TRUE(same_bits(got.out_NHU, expected.out_NHU)) << name_of(c);
    EXPECT_TRUE(same_bits(got.lse_NH, expected.lse_NH)) << name_of(c);
    EXPECT_TRUE(same_bits(attention_mass(q, start_J, both.view(both.pages), spec, got.lse_NH),
                          attention_mass(turned, start_J, both.view(both.plain), spec, got.lse_NH)))
        << name_of(c);
    // Each query by itself, as in decoding.
    if (c.first != 0 || c.K != 64) continue;
    const std::vector<std::int32_t> one = {0, 0, 1};
    const Tensor last =
        attention(q.slice(0, 40, 41), Tensor::of(std::span<const std::int32_t>(one), {3}),
                  both.view(both.pages), spec)
            .out_NHU;
    EXPECT_TRUE(same_bits(last, got.out_NHU.slice(0, 40, 41).contiguous_copy())) << name_of(c);
  }
}

TEST(KvFormatTest, PAG_17_queries_have_the_gradients_of_f32_pages_and_pages_have_none) {
  const std::vector<std::int32_t> starts = {0, 20, 41};
  const Tensor start_J = Tensor::of(std::span<const std::int32_t>(starts), {3});
  AttentionSpec spec;
  spec.alignment = Alignment::kBottomRight;
  spec.window_right = 0;
  for (const Case& c : cases()) {
    if (c.Z == 1 || c.Z == 320) continue;
    const Both both(c);
    const bool turn = turns_keys(c.dtype);
    const Tensor q = random({41, 4, c.K}, 8), dout = random({41, 4, c.U}, 9);
    const KvView view = both.view(both.pages), plain = both.view(both.plain);
    const AttentionResult result = attention(q, start_J, view, spec);
    AttentionGradients got, expected;
    attention_backward(got, dout, Tensor(), q, start_J, view, spec, result);
    attention_backward(expected, dout, Tensor(), turn ? hadamard(q) : q, start_J, plain, spec,
                       result);
    EXPECT_TRUE(same_bits(got.dq_NHK, turn ? hadamard(expected.dq_NHK) : expected.dq_NHK))
        << name_of(c);
  }
  const Both both({});
  const Tensor q = random({41, 4, 64}, 8);
  std::vector<float> somewhere(1);
  AttentionGradients gradients;
  gradients.dk_pages = somewhere.data();
  const KvView view = both.view(both.pages);
  const AttentionResult result = attention(q, start_J, view, spec);
  EXPECT_THAT(message_of([&] {
                attention_backward(gradients, q, Tensor(), q, start_J, view, spec, result);
              }),
              HasSubstr("gradients.dk_pages and dv_pages: i4 pages have none; only queries do"));
}

TEST(KvFormatTest, PAG_17_turned_keys_give_the_scores_of_the_others_but_for_rounding) {
  // One number that stands out in every key: what a rotation is for.
  Tensor k = random({200, 1, 64}, 10);
  for (std::int64_t n = 0; n < 200; ++n) k.mutable_data<float>()[n * 64 + 9] += 30.0f;
  const Tensor v = random({200, 1, 64}, 11), q = random({20, 1, 64}, 12);
  const std::vector<std::int32_t> starts = {0, 20};
  const Tensor start_J = Tensor::of(std::span<const std::int32_t>(starts), {2});
  std::map<DType, Tensor> lse;
  for (const DType dtype : {DType::kF32, DType::kI4, DType::kI4H}) {
    Pages pages(dtype, KLayout::kBlocks, 1, 208, 1, 64, 64);
    kv_write(pages.kv, k, v, slots_of(0, 200));
    KvView view = view_of(pages.kv);
    const std::int64_t length = 200;
    view.length_BG = &length;
    AttentionSpec spec;
    spec.alignment = Alignment::kBottomRight;
    lse[dtype] = attention(q, start_J, view, spec).lse_NH;
  }
  double off = 0, off_turned = 0;
  for (std::int64_t i = 0; i < 20; ++i) {
    const double truth = lse[DType::kF32].data<float>()[i];
    off += std::abs(lse[DType::kI4].data<float>()[i] - truth);
    off_turned += std::abs(lse[DType::kI4H].data<float>()[i] - truth);
  }
  EXPECT_LT(off_turned, off);
  EXPECT_LT(off_turned / 20, 0.5);
}

}  // namespace
}  // namespace quire

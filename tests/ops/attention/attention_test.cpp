#include "quire/ops/attention/attention.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <cmath>
#include <string>
#include <vector>

#include "quire/base/error.h"
#include "quire/base/thread_pool.h"
#include "tests/ops/attention/forward_case.h"

namespace quire::test {
namespace {

using testing::HasSubstr;
using testing::ThrowsMessage;

TEST(Attention, HandWorked) {
  const TwoKeys two(1);
  const AttentionResult result = attention(two.q_NHK, two.start_J, two.kv, causal());
  EXPECT_FLOAT_EQ(result.out_NHU.data<float>()[0], 5.0f);
  EXPECT_FLOAT_EQ(result.lse_NH.data<float>()[0], std::log(4.0f));
}

const std::vector<std::int64_t> kLengths = {0, 1, 63, 64, 65, 255, 256, 257, 700};

TEST(Attention, PAG_02_EqualsTheNaiveLoopsInEveryStorage) {
  const std::vector<std::int64_t> queries = {2, 1, 2, 1, 3, 1, 2, 4, 1};
  for (const DType dtype : {DType::kF32, DType::kF16, DType::kBF16, DType::kI8}) {
    for (const std::int64_t Z : {1, 2, 7, 16, 64, 256}) {
      for (const KLayout layout : {KLayout::kRows, KLayout::kBlocks}) {
        if (layout == KLayout::kBlocks && Z % 16 != 0) continue;
        for (const std::int64_t U : {32, 20}) {
          PagedForm form;
          form.dtype = dtype;
          form.layout = layout;
          form.Z = Z;
          form.G = 2;
          form.K = 32;
          form.U = U;
          form.head_first = Z % 2 == 0;
          const PagedCase kv(form, kLengths);
          expect_forward(Queries(queries, 4, 32), kv.view(), causal(),
                         concat(to_string(dtype), ", pages of ", Z, ", U ", U,
                                layout == KLayout::kBlocks ? ", blocks" : ", rows"));
        }
      }
    }
  }
}

TEST(Attention, PAG_02_EveryHeadSize) {
  for (const DType dtype : {DType::kF32, DType::kBF16}) {
    for (const KLayout layout : {KLayout::kRows, KLayout::kBlocks}) {
      for (const std::int64_t K : {1, 3, 4, 16, 20, 32, 64, 80, 96, 128, 192, 256, 512}) {
        for (const std::int64_t U : {K, std::int64_t{1}, std::int64_t{48}, std::int64_t{67}}) {
          PagedForm form;
          form.dtype = dtype;
          form.layout = layout;
          form.Z = 64;
          form.K = K;
          form.U = U;
          form.head_first = K % 3 == 0;
          const PagedCase kv(form, {130, 5});
          expect_forward(Queries({3, 1}, 2, K), kv.view(), causal(),
                         concat(to_string(dtype), ", K ", K, ", U ", U,
                                layout == KLayout::kBlocks ? ", blocks" : ", rows"));
        }
      }
    }
  }
}

TEST(Attention, PAG_11_EveryGroupSize) {
  for (const std::int64_t G : {1, 2, 3}) {
    for (const std::int64_t group : {1, 2, 3, 4, 5, 6, 7, 8}) {
      PagedForm form;
      form.G = G;
      form.K = form.U = 20;
      const PagedCase kv(form, {300, 70});
      // 1 and 5 queries share one tile of rows; 40 do not.
      for (const std::int64_t T : {1, 5, 40})
        expect_forward(Queries({T, 2}, G * group, 20), kv.view(), causal(),
                       concat("G ", G, ", H/G ", group, ", T ", T));
    }
  }
}

TEST(Attention, PAG_20_EveryTable) {
  for (const Table table : {Table::kSequences, Table::kHeads, Table::kCsr}) {
    for (const bool per_head : {false, true}) {
      PagedForm form;
      form.G = 3;
      form.Z = 16;
      form.table = table;
      form.lengths_per_head = per_head;
      const std::vector<std::int64_t> lengths =
          per_head ? std::vector<std::int64_t>{40, 0, 290, 17, 64, 1}
                   : std::vector<std::int64_t>{290, 17};
      const std::vector<std::int64_t> firsts =
          per_head ? std::vector<std::int64_t>{5, 300, 0, 64, 255, 9}
                   : std::vector<std::int64_t>{5, 64};
      for (const bool dropped : {false, true}) {
        const PagedCase kv(form, lengths, dropped ? firsts : std::vector<std::int64_t>{});
        AttentionSpec spec = causal();
        spec.window_left = 100;
        expect_forward(Queries({4, 3}, 6, 16), kv.view(), spec,
                       concat("table ", static_cast<int>(table), ", per head ",
                              static_cast<int>(per_head), ", dropped ", static_cast<int>(dropped)));
      }
    }
  }
  PagedForm form;
  form.Z = 300;
  form.table = Table::kNone;
  const PagedCase kv(form, {290, 17});
  expect_forward(Queries({4, 3}, 2, 16), kv.view(), causal(), "a page per sequence");
}

TEST(Attention, FLA_01_LongPromptsInOneCall) {
  for (const std::int64_t group : {1, 3}) {
    PagedForm form;
    form.G = 2;
    form.K = form.U = 16;
    form.dtype = DType::kF16;
    const PagedCase kv(form, {333, 64, 0});
    expect_forward(Queries({333, 65, 3}, 2 * group, 16), kv.view(), causal(),
                   concat("group ", group));
  }
}

TEST(Attention, FLA_01_ShapesOfFlashAttentionsTests) {
  struct Lengths {
    std::int64_t T, S, K;
  };
  for (const DType dtype : {DType::kF32, DType::kF16, DType::kBF16}) {
    for (const Lengths& shape : std::vector<Lengths>{{1, 147, 128},
                                                     {113, 203, 32},
                                                     {108, 256, 96},
                                                     {256, 512, 64},
                                                     {512, 256, 80},
                                                     {40, 203, 192},
                                                     {30, 147, 256},
                                                     {512, 513, 32}}) {
      PagedForm form;
      form.dtype = dtype;
      form.K = form.U = shape.K;
      const PagedCase kv(form, {shape.S});
      expect_forward(Queries({shape.T}, 2, shape.K), kv.view(), causal(),
                     concat(to_string(dtype), ", T ", shape.T, ", S ", shape.S));
    }
  }
}

TEST(Attention, PAG_13_EveryOptionAndPairs) {
  const float slopes[] = {0.5f, 0.25f, 0.03f, 0.001f}, sinks[] = {0.5f, -2, 4, -kInfinity};
  for (int options = 0; options < 64; ++options) {
    for (const DType dtype : {DType::kF32, DType::kI8}) {
      PagedForm form;
      form.dtype = dtype;
      form.G = 2;
      form.K = form.U = 16;
      const int bias = options % 4;
      form.bias_heads = bias == 0 ? 0 : bias == 1 ? 1 : bias == 2 ? 2 : 4;
      AttentionSpec spec = causal();
      if ((options & 4) != 0) spec.softcap = 1.5;
      if ((options & 8) != 0) spec.slope_H = slopes;
      if ((options & 16) != 0) spec.sink_H = sinks;
      if ((options & 32) != 0) {
        spec.window_left = 70;
        spec.window_right = 3;
      }
      spec.scale = options % 3 == 0 ? 0 : 0.4;
      const PagedCase kv(
          form, {290, 3},
          options % 5 == 0 ? std::vector<std::int64_t>{30, 400} : std::vector<std::int64_t>{});
      expect_forward(Queries({20, 5}, 4, 16), kv.view(), spec,
                     concat("options ", options, ", ", to_string(dtype)));
    }
  }
}

TEST(Attention, FLA_06_Masks) {
  std::vector<float> mask;
  for (int i = 0; i < 9 * 80; ++i)
    mask.push_back(i % 3 == 0 || i / 80 == 4 ? -kInfinity : value_at(8, 0, 0, i, 0));
  PagedForm form;
  const PagedCase kv(form, {75});
  AttentionSpec spec;
  spec.window_right = kUnlimited;
  spec.mask_TS = mask.data();
  spec.mask_stride = 80;
  expect_forward(Queries({9}, 2, 16), kv.view(), spec, "a mask");
  spec.window_right = 0;
  spec.alignment = Alignment::kTopLeft;
  expect_forward(Queries({9}, 2, 16), kv.view(), spec, "a mask and top-left causal");
}

/// Masks of B sequences and H heads, T × S each: numbers with holes, and truths.
struct Masks {
  Masks(std::int64_t B, std::int64_t H, std::int64_t rows, std::int64_t columns)
      : T(rows), S(columns) {
    for (std::int64_t i = 0; i < B * H * T * S; ++i) {
      const float x = value_at(8, 0, 0, i, 0);
      // Row 3 of each is masked whole, in the numbers or in the truths.
      const bool whole = i / S % T == 3;
      numbers.push_back(x > 1 || (whole && i / S / T % 2 == 0) ? -kInfinity : x);
      truths.push_back(x < -1 || (whole && i / S / T % 2 == 1) ? 0 : 1);
    }
  }
  AttentionSpec spec(int kinds, std::int64_t stride_B, std::int64_t stride_H) const {
    AttentionSpec out;
    out.window_right = kUnlimited;
    if ((kinds & 1) != 0) out.mask_TS = numbers.data();
    if ((kinds & 2) != 0) out.allow_TS = truths.data();
    out.mask_stride = S;
    out.mask_stride_B = stride_B;
    out.mask_stride_H = stride_H;
    return out;
  }
  std::int64_t T, S;
  std::vector<float> numbers;
  std::vector<std::uint8_t> truths;
};

TEST(Attention, FLA_06_MasksOfEachSequenceAndHead) {
  constexpr std::int64_t H = 4, T = 70, S = 333;
  const Masks masks(3, H, T, S);
  for (const DType dtype : {DType::kF32, DType::kI8}) {
    PagedForm form;
    form.dtype = dtype;
    form.G = 2;
    form.bias_heads = dtype == DType::kF32 ? 0 : 4;
    const PagedCase kv(form, {300, 17, S}, {0, 40, 1});
    for (const int kinds : {1, 2, 3}) {
      AttentionSpec spec = masks.spec(kinds, H * T * S, T * S);
      expect_forward(Queries({T, 4, 5}, H, 16), kv.view(), spec,
                     concat(to_string(dtype), ", kinds ", kinds));
      // One mask for all heads, one for all sequences, one row for all queries; causal as well.
      expect_forward(Queries({T, 4, 5}, H, 16), kv.view(), masks.spec(kinds, T * S, 0), "heads");
      expect_forward(Queries({T, 4, 5}, H, 16), kv.view(), masks.spec(kinds, 0, T * S), "shared");
      spec.mask_stride = 0;
      spec.window_right = 0;
      spec.alignment = Alignment::kBottomRight;
      expect_forward(Queries({T, 4, 5}, H, 16), kv.view(), spec, "one row, causal");
    }
  }
}

TEST(Attention, FLA_06_ARowThatIsMaskedWholeIsZero) {
  constexpr std::int64_t H = 2, T = 9, S = 80;
  const Masks masks(1, H, T, S);
  PagedForm form;
  const PagedCase kv(form, {S});
  const AttentionResult result = Queries({T}, H, 16).attend(kv.view(), masks.spec(3, 0, T * S));
  for (std::int64_t h = 0; h < H; ++h) {
    EXPECT_EQ(result.lse_NH.data<float>()[3 * H + h], -kInfinity);
    for (std::int64_t u = 0; u < 16; ++u)
      EXPECT_EQ(result.out_NHU.data<float>()[(3 * H + h) * 16 + u], 0.0f);
  }
}

TEST(Attention, FLA_12_T25_SlopesOverSeveralTiles) {
  const float slopes[] = {0.5f, 0.25f, 0.03f, 0.001f};
  for (const std::int64_t first : {0, 37}) {
    PagedForm form;
    form.G = 2;
    const PagedCase kv(form, {400}, {first});
    AttentionSpec spec = causal();
    spec.slope_H = slopes;
    expect_forward(Queries({150}, 4, 16), kv.view(), spec, "causal");
    spec.window_right = kUnlimited;
    expect_forward(Queries({150}, 4, 16), kv.view(), spec, "keys on both sides");
  }
}

TEST(Attention, PAG_02_DoublePrecisionInEveryForm) {
  for (const Table table : {Table::kSequences, Table::kHeads, Table::kCsr}) {
    for (const KLayout layout : {KLayout::kRows, KLayout::kBlocks}) {
      PagedForm form;
      form.dtype = DType::kF64;
      form.layout = layout;
      form.table = table;
      form.G = 2;
      form.K = 20;
      form.U = 7;
      form.bias_heads = table == Table::kSequences ? 4 : 2;
      const float slopes[] = {0.5f, 0.25f, 0.03f, 0.001f}, sinks[] = {0.5f, -2, 4, -kInfinity};
      const PagedCase kv(form, {70, 0, 3}, {5, 0, 90});
      AttentionSpec spec = causal();
      spec.softcap = 3;
      spec.slope_H = slopes;
      spec.sink_H = sinks;
      spec.window_left = 50;
      const Queries queries({12, 2, 5}, 4, 20);
      const AttentionResult result =
          attention(queries.q_NHK.to(DType::kF64), queries.start_J, kv.view(), spec);
      const auto truth = ref::attention<double>(queries.values, queries.start, 4, kv.view(), spec);
      ASSERT_EQ(result.lse_NH.dtype(), DType::kF64);
      for (std::size_t i = 0; i < truth.out_NHU.size(); ++i)
        ASSERT_NEAR(result.out_NHU.data<double>()[i], truth.out_NHU[i], 1e-14);
      for (std::size_t i = 0; i < truth.lse_NH.size(); ++i) {
        if (std::isinf(truth.lse_NH[i])) {
          ASSERT_EQ(result.lse_NH.data<double>()[i], truth.lse_NH[i]);
        } else {
          ASSERT_NEAR(result.lse_NH.data<double>()[i], truth.lse_NH[i], 1e-13);
        }
      }
    }
  }
}

TEST(Attention, PAG_12_NarrowQueriesRoundOnlyTheResult) {
  // (Of bf16 with bf16 the weights are rounded too: attention_bf16_test.)
  for (const DType dtype : {DType::kF16, DType::kBF16}) {
    PagedForm form;
    form.dtype = dtype == DType::kF16 ? DType::kBF16 : DType::kF16;
    const PagedCase kv(form, {100});
    const Queries queries({5}, 2, 16);
    const Tensor narrow = queries.q_NHK.to(dtype);
    const AttentionResult ours = attention(narrow, queries.start_J, kv.view(), causal());
    const AttentionResult wide =
        attention(narrow.to(DType::kF32), queries.start_J, kv.view(), causal());
    EXPECT_TRUE(same_bits(ours.out_NHU, wide.out_NHU.to(dtype)));
    EXPECT_TRUE(same_bits(ours.lse_NH, wide.lse_NH));
  }
}

TEST(Attention, TakesStridedQueries) {
  PagedForm form;
  const PagedCase kv(form, {40});
  const Queries queries({6}, 4, 16);
  const Tensor turned_HNK = queries.q_NHK.transpose(0, 1).contiguous_copy();
  EXPECT_TRUE(same_bits(attention(turned_HNK.transpose(0, 1), queries.start_J, kv.view(), causal()),
                        queries.attend(kv.view(), causal())));
}

TEST(Attention, HugeScoresDoNotOverflow) {
  PagedForm form;
  form.K = form.U = 16;
  const PagedCase kv(form, {70});
  AttentionSpec spec = causal();
  spec.scale = 3000;
  const AttentionResult result = Queries({3}, 1, 16).attend(kv.view(), spec);
  for (int i = 0; i < 3; ++i) EXPECT_TRUE(std::isfinite(result.lse_NH.data<float>()[i]));
  spec.softcap = 50;
  expect_forward(Queries({3}, 1, 16), kv.view(), spec, "capped");
}

TEST(Attention, NoSequencesAndNoQueries) {
  PagedForm form;
  const PagedCase kv(form, {10});
  EXPECT_EQ(Queries({}, 2, 16).attend(kv.view(), causal()).out_NHU.shape(), (Shape{0, 2, 16}));
  EXPECT_EQ(Queries({0}, 2, 16).attend(kv.view(), causal()).lse_NH.shape(), (Shape{0, 2}));
}

class AttentionErrors : public testing::Test {
 protected:
  void expect_error(const std::string& part) {
    const Tensor q_NHK = q, start_J = start;
    EXPECT_THAT([&] { (void)attention(q_NHK, start_J, kv, spec); },
                ThrowsMessage<ArgumentError>(HasSubstr(part)));
  }
  static PagedForm form() {
    PagedForm out;
    out.G = 2;
    return out;
  }
  PagedCase pages{form(), {20, 40}};
  KvView kv = pages.view();
  AttentionSpec spec = causal();
  Queries queries{{1, 2}, 4, 16};
  Tensor q = queries.q_NHK, start = queries.start_J;
};

TEST_F(AttentionErrors, TheFixtureItselfIsRight) {
  EXPECT_NO_THROW((void)attention(q, start, kv, spec));
}
TEST_F(AttentionErrors, Rank) {
  q = Tensor::zeros({3, 4}, DType::kF32);
  expect_error("q_NHK: rank is 2, expected 3");
}
TEST_F(AttentionErrors, HeadSize) {
  q = Tensor::zeros({3, 4, 8}, DType::kF32);
  expect_error("K is 8, but kv has K = 16");
}
TEST_F(AttentionErrors, Heads) {
  q = Tensor::zeros({3, 5, 16}, DType::kF32);
  expect_error("H is 5, which is not a multiple of kv.G = 2");
}
TEST_F(AttentionErrors, QueryType) {
  q = Tensor::zeros({3, 4, 16}, DType::kF64);
  expect_error("q_NHK is f64");
}
TEST_F(AttentionErrors, StartType) {
  start = start.to(DType::kI64);
  expect_error("start_J is i64");
}
TEST_F(AttentionErrors, StartEmpty) {
  start = Tensor::empty({0}, DType::kI32);
  expect_error("start_J is i32 [0]");
}
TEST_F(AttentionErrors, StartEnd) {
  const std::int32_t wrong[] = {0, 1, 2};
  start = Tensor::of(std::span<const std::int32_t>(wrong), {3});
  expect_error("it must go from 0 to N = 3");
}
TEST_F(AttentionErrors, StartBegin) {
  const std::int32_t wrong[] = {1, 2, 3};
  start = Tensor::of(std::span<const std::int32_t>(wrong), {3});
  expect_error("start_J begins with 1");
}
TEST_F(AttentionErrors, StartFalls) {
  const std::int32_t wrong[] = {0, 4, 3};
  start = Tensor::of(std::span<const std::int32_t>(wrong), {3});
  expect_error("start_J falls from 4 to 3 at 2");
}
TEST_F(AttentionErrors, Sizes) {
  kv.Z = 0;
  expect_error("Z 0");
}
TEST_F(AttentionErrors, ViewType) {
  kv.dtype = DType::kI16;
  expect_error("kv.dtype is i16");
}
TEST_F(AttentionErrors, ScalesMissing) {
  kv.dtype = DType::kI8;
  expect_error("belong to i8");
}
TEST_F(AttentionErrors, ScalesTooMany) {
  const float scale = 1;
  kv.v_scale_PZG = &scale;
  expect_error("belong to i8");
}
TEST_F(AttentionErrors, Lengths) {
  kv.length_BG = nullptr;
  expect_error("kv.length_BG is missing");
}
TEST_F(AttentionErrors, LengthNegative) {
  pages.lengths()[1] = -1;
  expect_error("length of sequence 1 is -1");
}
TEST_F(AttentionErrors, LengthOverTheTable) {
  pages.lengths()[1] = 65;
  expect_error("kv.length of sequence 1 is 65, but its table has 4 pages of 16");
}
TEST_F(AttentionErrors, LengthAtTheEndOfTheNumbers) {
  pages.lengths()[1] = INT64_MAX;
  expect_error("kv.length of sequence 1 is 9223372036854775807");
}
TEST_F(AttentionErrors, FirstNegative) {
  const std::int64_t firsts[] = {0, -3};
  kv.first_BG = firsts;
  expect_error("kv.first of sequence 1 is -3");
}
TEST_F(AttentionErrors, FirstAtTheEndOfTheNumbers) {
  const std::int64_t firsts[] = {0, INT64_MAX - 10};
  kv.first_BG = firsts;
  expect_error("kv.first of sequence 1 is 9223372036854775797");
}
TEST_F(AttentionErrors, PAG_22_T19_PageBeyondThePool) {
  pages.table()[5] = static_cast<std::int32_t>(kv.P);
  expect_error(concat("page 1 of sequence 1 is ", kv.P, ", but there are P = ", kv.P));
}
TEST_F(AttentionErrors, PAG_22_T19_PageUnused) {
  pages.table()[1] = -1;
  expect_error("page 1 of sequence 0 is -1");
}
TEST_F(AttentionErrors, PAG_03_T19_UnusedEntriesAreNeverRead) {
  pages.table()[2] = 1 << 30;
  pages.table()[3] = INT32_MIN;
  EXPECT_NO_THROW((void)attention(q, start, kv, spec));
}
TEST_F(AttentionErrors, BiasHeads) {
  const float bias = 0;
  kv.bias = &bias;
  kv.bias_heads = 3;
  expect_error("kv.bias_heads is 3; it may be 1, G = 2 or H = 4");
}
TEST_F(AttentionErrors, BlocksOfSixteen) {
  kv.k_layout = KLayout::kBlocks;
  kv.Z = 24;
  expect_error("kv.Z is 24; keys in blocks need a multiple of 16");
}
TEST_F(AttentionErrors, Alignment) {
  spec.alignment = Alignment::kUnset;
  expect_error("spec.alignment is unset, but sequence 0 has 1 queries and 20 keys");
}
TEST_F(AttentionErrors, Window) {
  spec.window_left = -1;
  expect_error("spec.window");
}
TEST_F(AttentionErrors, Softcap) {
  spec.softcap = std::nan("");
  expect_error("spec.softcap");
}
TEST_F(AttentionErrors, MaskStride) {
  spec.mask_stride_H = -1;
  expect_error("spec.mask_stride is 0, of sequences 0 and of heads -1");
}
TEST_F(AttentionErrors, DoubleQueriesWithOtherPages) {
  q = Tensor::zeros({3, 4, 16}, DType::kF64);
  expect_error("q_NHK is f64, but kv.dtype is f32; f64 goes with f64 only");
}
TEST_F(AttentionErrors, DoublePagesWithOtherQueries) {
  kv.dtype = DType::kF64;
  expect_error("q_NHK is f32, but kv.dtype is f64");
}

}  // namespace
}  // namespace quire::test

// Faults that attention had elsewhere, each as a case that ours passes (B3, B7 … of the ancestors'
// list), and where keys lie.

#include <gtest/gtest.h>
#include <sys/mman.h>

#include <cmath>
#include <vector>

#include "quire/base/thread_pool.h"
#include "quire/ops/attention/attention.h"
#include "quire/ops/attention/attention_backward.h"
#include "quire/ops/attention/kv_write.h"
#include "quire/ops/attention/page_table.h"
#include "tests/ops/attention/paged_case.h"
#include "tests/reference/attention.h"

namespace quire::test {
namespace {

void expect_close(const AttentionResult& result, const ref::Attention<double>& truth) {
  ASSERT_EQ(result.out_NHU.elements(), static_cast<std::int64_t>(truth.out_NHU.size()));
  for (std::size_t i = 0; i < truth.out_NHU.size(); ++i)
    ASSERT_NEAR(result.out_NHU.data<float>()[i], truth.out_NHU[i], 3e-6);
  for (std::size_t i = 0; i < truth.lse_NH.size(); ++i) {
    if (std::isinf(truth.lse_NH[i])) {
      ASSERT_EQ(result.lse_NH.data<float>()[i], -kInfinity);
    } else {
      ASSERT_NEAR(result.lse_NH.data<float>()[i], truth.lse_NH[i], 3e-6);
    }
  }
}

ref::Attention<double> truth_of(const Queries& queries, const KvView& kv,
                                const AttentionSpec& spec) {
  return ref::attention<double>(queries.values, queries.start, queries.H, kv, spec);
}

TEST(AttentionDefects, PAG_01_T21_WhereATokenLies) {
  // Rows of [slots, heads] of pages of two slots and two heads.
  const std::int32_t table[] = {0, 1, 2, 3};
  KvView kv;
  kv.P = 4;
  kv.Z = kv.W = kv.G = 2;
  kv.table = table;
  const PageStrides rows{4, 2, 1};
  const std::vector<std::vector<std::int64_t>> expected = {{0, 2, 4}, {1, 3, 5}, {8, 10, 12}};
  for (std::size_t i = 0; i < expected.size(); ++i) {
    const std::int64_t b = i == 2 ? 1 : 0, g = i == 1 ? 1 : 0;
    for (std::int64_t t = 0; t < 3; ++t) {
      const std::int64_t page = kernel::page_at(kv, b, g, t / 2);
      EXPECT_EQ(kernel::slot_offset(rows, KLayout::kRows, page, t % 2, g),
                expected[i][static_cast<std::size_t>(t)]);
      // Heads before slots.
      EXPECT_EQ(kernel::slot_offset({4, 1, 2}, KLayout::kRows, page, t % 2, g),
                page * 4 + g * 2 + t % 2);
    }
  }
}

TEST(AttentionDefects, PAG_01_T21_BothLayoutsGiveTheSameBits) {
  const Queries queries({9, 3}, 4, 16);
  PagedForm form;
  form.G = 2;
  form.Z = 6;
  const PagedCase slots(form, {40, 11});
  form.head_first = true;
  const PagedCase heads(form, {40, 11});
  EXPECT_TRUE(
      same_bits(queries.attend(slots.view(), causal()), queries.attend(heads.view(), causal())));
}

TEST(AttentionDefects, PAG_11_B3_T18_GroupedHeadsEqualRepeatedOnes) {
  PagedForm form;
  form.G = 2;
  const PagedCase grouped(form, {90});
  const Queries queries({20}, 6, 16);
  const AttentionResult result = queries.attend(grouped.view(), causal());
  for (std::int64_t h = 0; h < 6; ++h) {
    // Query head h alone, on the kv head h / 3 alone.
    KvView one = grouped.view();
    one.k_pages = static_cast<const float*>(one.k_pages) + h / 3 * one.k_strides.head;
    one.v_pages = static_cast<const float*>(one.v_pages) + h / 3 * one.v_strides.head;
    one.G = 1;
    const Tensor q = queries.q_NHK.slice(1, h, h + 1);
    const AttentionResult alone = attention(q, queries.start_J, one, causal());
    EXPECT_TRUE(same_bits(alone.out_NHU, result.out_NHU.slice(1, h, h + 1))) << h;
    EXPECT_TRUE(same_bits(alone.lse_NH, result.lse_NH.slice(1, h, h + 1))) << h;
  }
}

TEST(AttentionDefects, PAG_06_B7_T17_TheLogSumExpIsRightOnEveryPath) {
  // One query (chunks apart), few, and many (chunks in a row); keys in rows and in blocks.
  for (const KLayout layout : {KLayout::kRows, KLayout::kBlocks}) {
    PagedForm form;
    form.G = 2;
    form.Z = 64;
    form.layout = layout;
    const PagedCase kv(form, {600});
    for (const std::int64_t T : {1, 3, 80}) {
      const Queries queries({T}, 4, 16);
      const auto truth = truth_of(queries, kv.view(), causal());
      expect_close(queries.attend(kv.view(), causal()), truth);
    }
  }
}

TEST(AttentionDefects, PAG_07_B7_T17_OneQueryHonoursItsAlignment) {
  PagedForm form;
  const PagedCase kv(form, {300}), first(form, {1});
  const Queries query({1}, 2, 16);
  const AttentionResult top_left = query.attend(kv.view(), causal(Alignment::kTopLeft)),
                        bottom_right = query.attend(kv.view(), causal());
  EXPECT_TRUE(same_bits(top_left, query.attend(first.view(), causal())));
  AttentionSpec all;
  all.window_right = kUnlimited;
  EXPECT_TRUE(same_bits(bottom_right, query.attend(kv.view(), all)));
}

TEST(AttentionDefects, PAG_04_B8_APromptInChunksSeesNoFutureAndAllThePast) {
  PagedForm form;
  PagedCase kv(form, {50});
  const AttentionResult whole = Queries({50}, 2, 16).attend(kv.view(), causal());
  kv.lengths()[0] = 30;
  EXPECT_TRUE(same_bits(Queries({30}, 2, 16).attend(kv.view(), causal()), rows(whole, 0, 30)));
  kv.lengths()[0] = 50;
  EXPECT_TRUE(same_bits(Queries({20}, 2, 16, 30).attend(kv.view(), causal()), rows(whole, 30, 50)));
}

TEST(AttentionDefects, PAG_05_B9_MoreQueriesThanKeys) {
  PagedForm form;
  form.Z = 4;
  const PagedCase kv(form, {3, 70});
  for (const Alignment alignment : {Alignment::kTopLeft, Alignment::kBottomRight}) {
    const Queries queries({40, 100}, 2, 16);
    expect_close(queries.attend(kv.view(), causal(alignment)),
                 truth_of(queries, kv.view(), causal(alignment)));
  }
}

TEST(AttentionDefects, PAG_03_FLA_05_B10_T15_SequencesWithoutKeysOrQueries) {
  PagedForm form;
  form.G = 2;
  const PagedCase kv(form, {0, 20, 0, 7});
  const Queries queries({3, 0, 0, 5}, 4, 16);
  expect_close(queries.attend(kv.view(), causal()), truth_of(queries, kv.view(), causal()));
}

TEST(AttentionDefects, FLA_03_WindowsCountedAsOthersDo) {
  // "The last w keys" is left = w − 1.
  constexpr std::int64_t S = 150, w = 20;
  PagedForm form;
  const PagedCase kv(form, {S});
  AttentionSpec spec = causal();
  spec.window_left = w - 1;
  const AttentionResult result = Queries({S}, 2, 16).attend(kv.view(), spec);
  std::vector<float> mask(static_cast<std::size_t>(S * S));
  for (std::int64_t i = 0; i < S; ++i)
    for (std::int64_t j = 0; j < S; ++j)
      mask[static_cast<std::size_t>(i * S + j)] = j > i || j + w <= i ? -kInfinity : 0.0f;
  AttentionSpec masked;
  masked.window_right = kUnlimited;
  masked.mask_TS = mask.data();
  masked.mask_stride = S;
  const Queries queries({S}, 2, 16);
  expect_close(result, truth_of(queries, kv.view(), masked));
}

TEST(AttentionDefects, PAG_15_TheSameBitsInEveryRun) {
  PagedForm form;
  form.G = 2;
  form.dtype = DType::kF16;
  const PagedCase kv(form, {500, 40});
  const Queries queries({90, 1}, 6, 16);
  set_threads(4);
  const AttentionResult once = queries.attend(kv.view(), causal());
  for (int i = 0; i < 5; ++i) EXPECT_TRUE(same_bits(queries.attend(kv.view(), causal()), once));
  set_threads(2);
}

TEST(AttentionDefects, PAG_17_B13_BytesEqualTheNumbersTheyStandFor) {
  // i8 pages, and f32 pages that hold byte · scale.
  PagedForm form;
  form.dtype = DType::kI8;
  form.G = 2;
  const PagedCase bytes(form, {130, 9});
  KvView kv = bytes.view();
  std::vector<float> k, v;
  for (std::int64_t slot = 0; slot < kv.P * kv.Z; ++slot) {
    for (std::int64_t g = 0; g < 2; ++g) {
      for (std::int64_t x = 0; x < 16; ++x) {
        const auto at = static_cast<std::size_t>((slot * 2 + g) * 16 + x);
        const auto scale = static_cast<std::size_t>(slot * 2 + g);
        k.push_back(static_cast<float>(static_cast<const std::int8_t*>(kv.k_pages)[at]) *
                    kv.k_scale_PZG[scale]);
        v.push_back(static_cast<float>(static_cast<const std::int8_t*>(kv.v_pages)[at]) *
                    kv.v_scale_PZG[scale]);
      }
    }
  }
  const Queries queries({20, 3}, 4, 16);
  const AttentionResult ours = queries.attend(kv, causal());
  kv.dtype = DType::kF32;
  kv.k_pages = k.data();
  kv.v_pages = v.data();
  kv.k_scale_PZG = kv.v_scale_PZG = nullptr;
  const AttentionResult wide = queries.attend(kv, causal());
  for (std::int64_t i = 0; i < wide.out_NHU.elements(); ++i)
    EXPECT_NEAR(ours.out_NHU.data<float>()[i], wide.out_NHU.data<float>()[i], 2e-6);
}

TEST(AttentionDefects, PAG_05_T13_T14_NumbersThatOverflowWhenTheyAreSubtractedAsUnsigned) {
  // Windows wider than the positions, more queries than keys, positions from 0 on.
  PagedForm form;
  const PagedCase kv(form, {2});
  AttentionSpec spec = causal();
  spec.window_left = 100;
  spec.window_right = 100;
  const Queries queries({5}, 2, 16);
  expect_close(queries.attend(kv.view(), spec), truth_of(queries, kv.view(), spec));
}

/// Addresses for `bytes`, of which only those that are touched take memory.
class Reserved {
 public:
  explicit Reserved(std::int64_t bytes) : bytes_(static_cast<std::size_t>(bytes)) {
    memory_ = ::mmap(nullptr, bytes_, PROT_READ | PROT_WRITE,
                     MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);
    if (memory_ == MAP_FAILED) throw std::bad_alloc();
  }
  ~Reserved() { ::munmap(memory_, bytes_); }
  Reserved(const Reserved&) = delete;
  Reserved& operator=(const Reserved&) = delete;
  float* data() const { return static_cast<float*>(memory_); }

 private:
  void* memory_;
  std::size_t bytes_;
};

TEST(AttentionDefects, PAG_02_PAG_08_PAG_16_T19_PagesBeyondTwoToTheThirtyOneNumbers) {
  // Page 1 begins more than 2³¹ numbers behind page 0. The table names it first.
  constexpr std::int64_t Z = 16, G = 2, K = 16, numbers = Z * G * K, far = (1LL << 31) + 4096;
  const std::vector<std::int32_t> table = {1, 0};
  const std::int64_t length = 29;
  const Queries queries({length}, 4, K);
  const Tensor dout = Queries({length}, 4, K, 100).q_NHK;
  const auto run = [&](std::int64_t stride, float* k, float* v, float* dk, float* dv) {
    KvPages pages;
    pages.k_pages = k;
    pages.v_pages = v;
    pages.k_strides = pages.v_strides = {stride, G * K, K};
    pages.P = 2;
    pages.Z = Z;
    pages.G = G;
    pages.K = pages.U = K;
    std::vector<std::int64_t> slots;
    for (std::int64_t s = 0; s < length; ++s) slots.push_back((s < Z ? Z : 0) + s % Z);
    const Tensor keys = Queries({length}, G, K, 1000).q_NHK,
                 numbers_of = Queries({length}, G, K, 2000).q_NHK;
    kv_write(pages, keys, numbers_of, Tensor::of(std::span<const std::int64_t>(slots), {length}));
    KvView kv = view_of(pages);
    kv.table = table.data();
    kv.W = 2;
    kv.length_BG = &length;
    const AttentionResult result = queries.attend(kv, causal());
    AttentionGradients gradients;
    gradients.dk_pages = dk;
    gradients.dv_pages = dv;
    attention_backward(gradients, dout, Tensor(), queries.q_NHK, queries.start_J, kv, causal(),
                       result);
    return std::pair(result, gradients.dq_NHK);
  };
  std::vector<float> near_pages(4 * 2 * numbers);
  float* near = near_pages.data();
  const auto [result, dq] =
      run(numbers, near, near + 2 * numbers, near + 4 * numbers, near + 6 * numbers);
  const Reserved k(4 * (far + numbers)), v(4 * (far + numbers)), dk(4 * (far + numbers)),
      dv(4 * (far + numbers));
  const auto [far_result, far_dq] = run(far, k.data(), v.data(), dk.data(), dv.data());
  EXPECT_TRUE(same_bits(far_result, result));
  EXPECT_TRUE(same_bits(far_dq, dq));
  for (const auto& [there, here] :
       {std::pair(dk.data(), near + 4 * numbers), std::pair(dv.data(), near + 6 * numbers)}) {
    EXPECT_EQ(std::memcmp(there, here, 4 * numbers), 0);
    EXPECT_EQ(std::memcmp(there + far, here + numbers, 4 * numbers), 0);
    EXPECT_NE(here[numbers], 0.0f);
  }
}

}  // namespace
}  // namespace quire::test

// merge_attention: the softmax over a union of keys from the softmax over its parts.

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <cmath>
#include <vector>

#include "quire/base/error.h"
#include "quire/ops/attention/attention.h"
#include "tests/ops/attention/paged_case.h"
#include "tests/reference/attention.h"

namespace quire::test {
namespace {

AttentionSpec everything() {
  AttentionSpec spec;
  spec.window_right = kUnlimited;
  return spec;
}

AttentionResult part(const PagedForm& form, const Queries& queries, std::int64_t begin,
                     std::int64_t end) {
  const PagedCase kv(form, {end - begin}, {begin});
  return queries.attend(kv.view(), everything());
}

TEST(MergeAttention, FLA_08_PartsMakeTheWhole) {
  PagedForm form;
  form.K = form.U = 20;
  form.G = 2;
  constexpr std::int64_t S = 300;
  const Queries queries({5}, 4, 20);
  const PagedCase kv(form, {S});
  const auto truth =
      ref::attention<double>(queries.values, queries.start, 4, kv.view(), everything());
  const auto naive =
      ref::attention<float>(queries.values, queries.start, 4, kv.view(), everything());
  for (const std::vector<std::int64_t>& cuts : {std::vector<std::int64_t>{0, S},
                                                {0, 0, S},
                                                {0, 1, S},
                                                {0, 100, 299, S, S},
                                                {0, 64, 256, S}}) {
    for (const bool backwards : {false, true}) {
      AttentionResult merged;
      for (std::size_t c = 0; c + 1 < cuts.size(); ++c) {
        const std::size_t i = backwards ? cuts.size() - 2 - c : c;
        const AttentionResult next = part(form, queries, cuts[i], cuts[i + 1]);
        merged = c == 0 ? next : merge_attention(merged, next);
      }
      double ours = 0, yardstick = 0;
      for (std::size_t i = 0; i < truth.out_NHU.size(); ++i) {
        ours = std::max(ours, std::abs(double{merged.out_NHU.data<float>()[i]} - truth.out_NHU[i]));
        yardstick = std::max(yardstick, std::abs(double{naive.out_NHU[i]} - truth.out_NHU[i]));
      }
      EXPECT_LE(ours, 2 * yardstick + 0x1p-23 * truth.largest_value) << cuts.size() << " cuts";
      for (std::size_t i = 0; i < truth.lse_NH.size(); ++i)
        EXPECT_NEAR(merged.lse_NH.data<float>()[i], truth.lse_NH[i],
                    0x1p-21 * std::abs(truth.lse_NH[i]));
    }
  }
}

TEST(MergeAttention, AnEmptyPartChangesNoBitWhateverItHolds) {
  const Queries queries({5}, 2, 16);
  const AttentionResult whole = part(PagedForm{}, queries, 0, 90);
  AttentionResult empty = part(PagedForm{}, queries, 0, 0);
  EXPECT_TRUE(same_bits(merge_attention(whole, empty), whole));
  EXPECT_TRUE(same_bits(merge_attention(empty, whole), whole));
  EXPECT_TRUE(same_bits(merge_attention(empty, empty), empty));
  for (std::int64_t i = 0; i < empty.out_NHU.elements(); ++i)
    empty.out_NHU.mutable_data<float>()[i] = kNan;
  EXPECT_TRUE(same_bits(merge_attention(whole, empty), whole));
  EXPECT_TRUE(same_bits(merge_attention(empty, whole), whole));
  const AttentionResult both = merge_attention(empty, empty);
  EXPECT_EQ(both.out_NHU.data<float>()[0], 0.0f);
  EXPECT_EQ(both.lse_NH.data<float>()[0], -kInfinity);
}

TEST(MergeAttention, HandWorked) {
  const auto one = [](float out, float lse) {
    return AttentionResult{Tensor::of(std::span<const float>(&out, 1), {1, 1, 1}),
                           Tensor::of(std::span<const float>(&lse, 1), {1, 1})};
  };
  const AttentionResult result = merge_attention(one(8, std::log(1.0f)), one(4, std::log(3.0f)));
  EXPECT_FLOAT_EQ(result.out_NHU.data<float>()[0], 5.0f);
  EXPECT_FLOAT_EQ(result.lse_NH.data<float>()[0], std::log(4.0f));
  const AttentionResult far = merge_attention(one(1, 3e38f), one(2, -3e38f));
  EXPECT_EQ(far.out_NHU.data<float>()[0], 1.0f);
  EXPECT_EQ(far.lse_NH.data<float>()[0], 3e38f);
  EXPECT_TRUE(std::isnan(merge_attention(one(1, 0), one(kNan, kNan)).out_NHU.data<float>()[0]));
  EXPECT_TRUE(std::isnan(merge_attention(one(1, 0), one(1, kNan)).lse_NH.data<float>()[0]));
  EXPECT_TRUE(std::isnan(merge_attention(one(1, kNan), one(1, 0)).lse_NH.data<float>()[0]));
}

TEST(MergeAttention, NarrowResultsRoundOnce) {
  const Queries queries({5}, 2, 16);
  AttentionResult a = part(PagedForm{}, queries, 0, 30), b = part(PagedForm{}, queries, 30, 90);
  a.out_NHU = a.out_NHU.to(DType::kBF16);
  b.out_NHU = b.out_NHU.to(DType::kBF16);
  const AttentionResult narrow = merge_attention(a, b);
  const AttentionResult wide =
      merge_attention({a.out_NHU.to(DType::kF32), a.lse_NH}, {b.out_NHU.to(DType::kF32), b.lse_NH});
  EXPECT_TRUE(same_bits(narrow.out_NHU, wide.out_NHU.to(DType::kBF16)));
  EXPECT_TRUE(same_bits(narrow.lse_NH, wide.lse_NH));
}

TEST(MergeAttention, Errors) {
  const AttentionResult a{Tensor::zeros({2, 3, 4}, DType::kF32),
                          Tensor::zeros({2, 3}, DType::kF32)};
  AttentionResult b = a;
  b.out_NHU = Tensor::zeros({2, 3, 5}, DType::kF32);
  EXPECT_THROW((void)merge_attention(a, b), ArgumentError);
  b = a;
  b.lse_NH = Tensor::zeros({2, 2}, DType::kF32);
  EXPECT_THROW((void)merge_attention(a, b), ArgumentError);
  EXPECT_THROW((void)merge_attention(b, a), ArgumentError);
  b = a;
  b.out_NHU = a.out_NHU.to(DType::kF16);
  EXPECT_THROW((void)merge_attention(a, b), ArgumentError);
  b = a;
  b.lse_NH = a.lse_NH.to(DType::kF64);
  EXPECT_THROW((void)merge_attention(a, b), ArgumentError);
}

TEST(MergeAttention, FLA_09_SplitsOfOneQueryAgree) {
  PagedForm form;
  form.G = 2;
  form.dtype = DType::kBF16;
  constexpr std::int64_t S = 1000;
  const Queries queries({1}, 4, 16);
  const PagedCase all(form, {S});
  const AttentionResult whole = queries.attend(all.view(), everything());
  for (const std::int64_t splits : {1, 2, 3, 8}) {
    AttentionResult merged;
    for (std::int64_t i = 0; i < splits; ++i) {
      const AttentionResult next = part(form, queries, S * i / splits, S * (i + 1) / splits);
      merged = i == 0 ? next : merge_attention(merged, next);
    }
    for (std::int64_t i = 0; i < whole.out_NHU.elements(); ++i)
      EXPECT_NEAR(merged.out_NHU.data<float>()[i], whole.out_NHU.data<float>()[i], 1e-6);
  }
}

TEST(MergeAttention, PAG_21_ASharedPrefixOnceThenTheRest) {
  // The prefix is attended by all queries at once, as one sequence that sees all of it; each
  // sequence's own keys follow. Together that is plain attention over both.
  PagedForm form;
  form.G = 2;
  constexpr std::int64_t prefix = 70;
  const std::vector<std::int64_t> counts = {4, 1, 6};
  const PagedCase head(form, {prefix});
  std::vector<std::int64_t> own = {4, 1, 6}, firsts(3, prefix), whole(3);
  for (std::size_t b = 0; b < 3; ++b) whole[b] = prefix + own[b];
  const PagedCase tails(form, own, firsts), plain(form, whole);
  // Tables of the plain case name the prefix's keys by sequence: only sequence 0 has the same.
  AttentionSpec causal;
  causal.alignment = Alignment::kBottomRight;
  const Queries queries(counts, 4, 16);
  const AttentionResult expected = queries.attend(plain.view(), causal),
                        suffix = queries.attend(tails.view(), causal);
  const std::int32_t one[] = {0, 4};
  const AttentionResult first =
      attention(queries.q_NHK.slice(0, 0, 4), Tensor::of(std::span<const std::int32_t>(one), {2}),
                head.view(), everything());
  const AttentionResult merged = merge_attention(first, rows(suffix, 0, 4));
  for (std::int64_t i = 0; i < merged.out_NHU.elements(); ++i)
    EXPECT_NEAR(merged.out_NHU.data<float>()[i], expected.out_NHU.data<float>()[i], 1e-6);
}

TEST(MergeAttention, FLA_08_DoublePrecisionAndBaseTwo) {
  PagedForm form;
  form.dtype = DType::kF64;
  const PagedCase all(form, {90}), left(form, {30}), right(form, {60}, {30});
  const Queries queries({3}, 2, 16);
  const Tensor q = queries.q_NHK.to(DType::kF64);
  const auto of = [&](const PagedCase& kv) {
    return attention(q, queries.start_J, kv.view(), everything());
  };
  const AttentionResult whole = of(all), merged = merge_attention(of(left), of(right)),
                        other = merge_attention(of(right), of(left));
  ASSERT_EQ(merged.lse_NH.dtype(), DType::kF64);
  for (std::int64_t i = 0; i < whole.out_NHU.elements(); ++i) {
    EXPECT_NEAR(merged.out_NHU.data<double>()[i], whole.out_NHU.data<double>()[i], 1e-15);
    EXPECT_NEAR(other.out_NHU.data<double>()[i], whole.out_NHU.data<double>()[i], 1e-15);
  }
  for (std::int64_t i = 0; i < whole.lse_NH.elements(); ++i) {
    const double lse = whole.lse_NH.data<double>()[i];
    EXPECT_NEAR(merged.lse_NH.data<double>()[i], lse, 1e-14);
    // In base 2, as others keep it, the merge is the same after a division by ln 2.
    const double a = of(left).lse_NH.data<double>()[i] / std::log(2.0),
                 b = of(right).lse_NH.data<double>()[i] / std::log(2.0);
    EXPECT_NEAR(std::log2(std::exp2(a) + std::exp2(b)) * std::log(2.0), lse, 1e-14);
  }
}

}  // namespace
}  // namespace quire::test

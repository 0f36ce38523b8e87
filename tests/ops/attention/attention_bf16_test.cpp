// Queries of bf16 over keys and values of bf16: dot products of bf16 where the processor has them,
// the same order and the same roundings where it has not.

#include <gtest/gtest.h>

#include <algorithm>
#include <cmath>
#include <vector>

#include "quire/base/error.h"
#include "quire/base/half.h"
#include "quire/base/isa.h"
#include "quire/base/thread_pool.h"
#include "quire/ops/attention/attention.h"
#include "quire/ops/attention/attention_kernel.h"
#include "tests/ops/attention/paged_case.h"
#include "tests/reference/attention.h"

namespace quire::test {
namespace {

AttentionSpec causal() {
  AttentionSpec spec;
  spec.alignment = Alignment::kBottomRight;
  return spec;
}

/// Queries whose numbers are bf16.
struct NarrowQueries : Queries {
  NarrowQueries(const std::vector<std::int64_t>& counts, std::int64_t heads, std::int64_t K,
                std::int64_t skip = 0)
      : Queries(counts, heads, K, skip), narrow(q_NHK.to(DType::kBF16)) {
    q_NHK = narrow.to(DType::kF32);
    std::copy_n(q_NHK.data<float>(), values.size(), values.begin());
  }
  AttentionResult attend(const KvView& kv, const AttentionSpec& spec) const {
    return attention(narrow, start_J, kv, spec);
  }
  /// The kernel itself, its result in f32.
  AttentionResult attend(const KvView& kv, AttentionSpec spec, kernel::Products products) const {
    const std::int64_t N = q_NHK.size(0), heads = q_NHK.size(1);
    AttentionResult out{Tensor::empty({N, heads, kv.U}, DType::kF32),
                        Tensor::empty({N, heads}, DType::kF32)};
    if (spec.scale == 0) spec.scale = 1 / std::sqrt(static_cast<double>(kv.K));
    kernel::attention_cpu({q_NHK.data<float>(), start.data(), kv, spec,
                           out.out_NHU.mutable_data<float>(), out.lse_NH.mutable_data<float>(),
                           static_cast<std::int64_t>(start.size()) - 1, N, heads, products});
    return out;
  }
  Tensor narrow;
};

std::vector<PagedForm> forms(std::int64_t K, std::int64_t U) {
  std::vector<PagedForm> out;
  for (const std::int64_t Z : {5, 16, 64, 400}) {
    for (const KLayout layout : {KLayout::kRows, KLayout::kBlocks}) {
      if (layout == KLayout::kBlocks && Z % 16 != 0) continue;
      PagedForm form;
      form.dtype = DType::kBF16;
      form.layout = layout;
      form.Z = Z;
      form.G = 2;
      form.K = K;
      form.U = U;
      form.head_first = layout == KLayout::kBlocks;
      out.push_back(form);
    }
  }
  return out;
}

std::vector<AttentionSpec> specs() {
  static const float slopes[] = {0.5f, 0.1f, 0.02f, 0.3f, 0.01f, 0.2f};
  std::vector<AttentionSpec> out(3, causal());
  out[1].window_left = 90;
  out[2].softcap = 2;
  out[2].slope_H = slopes;
  out[2].sink_H = slopes;
  return out;
}

/// At most twice the error of the naive loop in f32 whose result is rounded to bf16, and lse as
/// good as with f32 queries.
void expect_reference(const NarrowQueries& queries, const KvView& kv, const AttentionSpec& spec,
                      const std::string& what) {
  const AttentionResult result = queries.attend(kv, spec);
  const auto truth = ref::attention<double>(queries.values, queries.start, queries.H, kv, spec);
  const auto naive = ref::attention<float>(queries.values, queries.start, queries.H, kv, spec);
  ASSERT_EQ(result.out_NHU.dtype(), DType::kBF16);
  const Tensor out = result.out_NHU.to(DType::kF32);
  ASSERT_EQ(static_cast<std::size_t>(out.elements()), truth.out_NHU.size());
  double ours = 0, theirs = 0, lse_ours = 0, lse_theirs = 0;
  for (std::size_t i = 0; i < truth.out_NHU.size(); ++i) {
    ours = std::max(ours, std::abs(double{out.data<float>()[i]} - truth.out_NHU[i]));
    theirs = std::max(theirs,
                      std::abs(double{to_float(to_bfloat16(naive.out_NHU[i]))} - truth.out_NHU[i]));
  }
  EXPECT_LE(ours, 2 * theirs) << what;
  for (std::size_t r = 0; r < truth.lse_NH.size(); ++r) {
    if (std::isinf(truth.lse_NH[r])) {
      ASSERT_EQ(result.lse_NH.data<float>()[r], -kInfinity) << what;
      continue;
    }
    lse_ours =
        std::max(lse_ours, std::abs(double{result.lse_NH.data<float>()[r]} - truth.lse_NH[r]));
    lse_theirs = std::max(lse_theirs, std::abs(double{naive.lse_NH[r]} - truth.lse_NH[r]));
  }
  EXPECT_LE(lse_ours, 2 * lse_theirs + 0x1p-23 * truth.largest_score) << what;
}

TEST(AttentionBf16, QueriesOfF32ThatRoundLikePagesAreThoseOfBf16WithAWholeResult) {
  AttentionSpec rounding = causal();
  rounding.query_rounding = QueryRounding::kLikePages;
  for (PagedForm form : forms(48, 32)) {
    const NarrowQueries narrow({40, 1}, 6, 48);
    const Queries whole({40, 1}, 6, 48);
    const auto attend = [&](const AttentionSpec& spec) {
      return attention(whole.q_NHK, whole.start_J, PagedCase(form, {300, 70}).view(), spec);
    };
    const PagedCase kv(form, {300, 70});
    const AttentionResult out = attend(rounding), expected = narrow.attend(kv.view(), causal());
    EXPECT_EQ(out.out_NHU.dtype(), DType::kF32);
    EXPECT_TRUE(same_bits(out.out_NHU.to(DType::kBF16), expected.out_NHU));
    EXPECT_TRUE(same_bits(out.lse_NH, expected.lse_NH));
    EXPECT_FALSE(same_bits(out.out_NHU, expected.out_NHU.to(DType::kF32)));  // rounded nowhere
    EXPECT_FALSE(same_bits(out.lse_NH, attend(causal()).lse_NH));
    form.dtype = DType::kF16;  // pages that round nothing
    EXPECT_TRUE(same_bits(attend(rounding).out_NHU, attend(causal()).out_NHU));
  }
}

TEST(AttentionBf16, PAG_02_FLA_01_AtMostTwiceTheErrorOfTheNaiveLoop) {
  std::size_t turn = 0;  // every head size meets every option, and every form too
  for (const std::int64_t K : {16, 33, 64, 128}) {
    for (const PagedForm& form : forms(K, K)) {
      const PagedCase kv(form, {270, 70});
      expect_reference(NarrowQueries({20, 1}, 6, K), kv.view(), specs()[turn++ % 3],
                       concat("K ", K, ", pages of ", form.Z));
    }
  }
}

TEST(AttentionBf16, PAG_02_EveryHeadSizeOfBothSides) {
  for (const std::int64_t K : {1, 2, 3, 31, 80, 96, 256, 511, 512}) {
    for (const std::int64_t U : {K, std::int64_t{1}, std::int64_t{48}, std::int64_t{67}}) {
      for (const KLayout layout : {KLayout::kRows, KLayout::kBlocks}) {
        PagedForm form;
        form.dtype = DType::kBF16;
        form.layout = layout;
        form.Z = 64;
        form.K = K;
        form.U = U;
        const PagedCase kv(form, {135});
        expect_reference(NarrowQueries({20}, 2, K), kv.view(), causal(),
                         concat("K ", K, ", U ", U));
      }
    }
  }
}

TEST(AttentionBf16, TheProcessorsDotProductsAndWidenedNumbersGiveTheSameBits) {
  for (const std::int64_t K : {32, 33}) {
    for (const PagedForm& form : forms(K, 48)) {
      const PagedCase kv(form, {275});
      for (const AttentionSpec& spec : specs()) {
        for (const std::int64_t T : {1, 7, 35}) {
          const NarrowQueries queries({T}, 6, K);
          const AttentionResult best = queries.attend(kv.view(), spec),
                                wide =
                                    queries.attend(kv.view(), spec, kernel::Products::kBf16Widened);
          EXPECT_TRUE(same_bits(best.out_NHU, wide.out_NHU.to(DType::kBF16)))
              << "K " << K << ", T " << T << ", pages of " << form.Z;
          EXPECT_TRUE(same_bits(best.lse_NH, wide.lse_NH));
          if (has_bf16_dot()) {
            EXPECT_TRUE(
                same_bits(queries.attend(kv.view(), spec, kernel::Products::kBf16Dots), wide))
                << "K " << K << ", T " << T << ", pages of " << form.Z;
          }
        }
      }
    }
  }
}

TEST(AttentionBf16, OnePromptInChunksOrTokenByTokenWhereverPagesLie) {
  constexpr std::int64_t S = 281;
  set_threads(1);  // thousands of tiny calls
  std::size_t option = 0;
  for (const AttentionSpec& spec : specs()) {
    const NarrowQueries whole({S}, 6, 32);
    AttentionResult first;
    std::size_t turn = option++;
    for (const PagedForm& form : forms(32, 48)) {
      PagedCase kv(form, {S});
      const AttentionResult at_once = whole.attend(kv.view(), spec);
      if (first.out_NHU.elements() == 0) first = at_once;
      EXPECT_TRUE(same_bits(at_once, first)) << "pages of " << form.Z;
      if (turn++ % 3 != 0) continue;  // each form has one of the options
      for (const std::int64_t chunk : {1, 7}) {
        for (std::int64_t t = 0; t < S; t += chunk) {
          if (chunk == 1 && t % 64 > 2 && t % 64 < 62 && t % 16 != 5) continue;
          const std::int64_t end = std::min(S, t + chunk);
          kv.lengths()[0] = end;
          const AttentionResult part = NarrowQueries({end - t}, 6, 32, t).attend(kv.view(), spec);
          ASSERT_TRUE(same_bits(part, rows(at_once, t, end)))
              << "pages of " << form.Z << ", chunks of " << chunk << ", token " << t;
        }
      }
    }
  }
  set_threads(2);
}

TEST(AttentionBf16, HeadsThatAreComputedTogetherOrAlone) {
  constexpr std::int64_t G = 5;
  for (const KLayout layout : {KLayout::kRows, KLayout::kBlocks}) {
    PagedForm form;
    form.dtype = DType::kBF16;
    form.layout = layout;
    form.G = G;
    const PagedCase kv(form, {2100});  // long enough for pieces of several heads
    for (const std::int64_t T : {1, 4}) {
      const NarrowQueries all({T}, 2 * G, 16);
      const AttentionResult together = all.attend(kv.view(), causal());
      for (std::int64_t g = 0; g < G; ++g) {
        const Tensor q_NHK = all.narrow.slice(1, 2 * g, 2 * g + 2).contiguous_copy();
        const AttentionResult alone =
            attention(q_NHK, all.start_J, one_head(kv.view(), g), causal());
        EXPECT_TRUE(same_bits(alone.out_NHU, together.out_NHU.slice(1, 2 * g, 2 * g + 2)))
            << "head " << g << ", T " << T;
        EXPECT_TRUE(same_bits(alone.lse_NH, together.lse_NH.slice(1, 2 * g, 2 * g + 2)));
      }
    }
  }
}

TEST(AttentionBf16, FLA_15_NanInOneKeyReachesExactlyTheRowsThatSeeIt) {
  constexpr std::int64_t S = 300, T = 60;
  AttentionSpec spec = causal();
  spec.window_left = 21;
  for (const PagedForm& form : forms(32, 48)) {
    for (const std::int64_t count : {T, std::int64_t{1}}) {
      // 240 and 277 are hidden from the last query by its window and by nothing else.
      for (const std::int64_t key : {240, 255, 256, 277, 298, 299}) {
        for (const bool in_key : {true, false}) {
          const PagedCase clean(form, {S});
          PagedCase poisoned(form, {S});
          poisoned.poison(0, 1, key, in_key, !in_key);
          const NarrowQueries queries({count}, 6, 32);
          const AttentionResult a = queries.attend(clean.view(), spec),
                                b = queries.attend(poisoned.view(), spec);
          for (std::int64_t t = 0; t < count; ++t) {
            for (std::int64_t h = 0; h < 6; ++h) {
              const std::int64_t position = S - count + t;
              const bool sees = h / 3 == 1 && position >= key && position - key <= 21;
              const Tensor out = b.out_NHU.slice(0, t, t + 1).slice(1, h, h + 1);
              const std::string where = concat("pages of ", form.Z, ", key ", key,
                                               in_key ? " (key)" : " (value)", ", query ", t);
              if (sees) {
                ASSERT_TRUE(std::isnan(out.to(DType::kF32).data<float>()[0])) << where;
              } else {
                ASSERT_TRUE(same_bits(out, a.out_NHU.slice(0, t, t + 1).slice(1, h, h + 1)))
                    << where;
              }
            }
          }
        }
      }
    }
  }
}

TEST(AttentionBf16, FLA_15_NanInSlotsPastTheEndReachesNothing) {
  for (const PagedForm& form : forms(32, 48)) {
    for (const std::int64_t length : {1, 63, 64, 297, 298}) {
      PagedCase clean(form, {299}), poisoned(form, {299});
      for (std::int64_t s = length; s < 299; ++s)
        for (std::int64_t g = 0; g < 2; ++g) poisoned.poison(0, g, s, true, true);
      clean.lengths()[0] = poisoned.lengths()[0] = length;
      for (const std::int64_t T : {1, 40}) {
        const NarrowQueries queries({T}, 6, 32);
        EXPECT_TRUE(same_bits(queries.attend(clean.view(), causal()),
                              queries.attend(poisoned.view(), causal())))
            << "pages of " << form.Z << ", length " << length << ", T " << T;
      }
    }
  }
}

TEST(AttentionBf16, AnInfiniteValueWithoutWeightDoesNotDependOnItsNeighbours) {
  PagedForm form;
  form.dtype = DType::kBF16;
  form.K = 16;
  PagedCase kv(form, {70});
  for (std::int64_t s = 0; s < 70; s += 5) kv.set_value(0, 0, s, 3, kInfinity);
  AttentionSpec spec = causal();
  spec.scale = 100;
  const AttentionResult whole = NarrowQueries({70}, 1, 16).attend(kv.view(), spec);
  for (std::int64_t t = 0; t < 70; ++t) {
    kv.lengths()[0] = t + 1;
    EXPECT_TRUE(
        same_bits(NarrowQueries({1}, 1, 16, t).attend(kv.view(), spec), rows(whole, t, t + 1)))
        << "query " << t;
  }
}

}  // namespace
}  // namespace quire::test

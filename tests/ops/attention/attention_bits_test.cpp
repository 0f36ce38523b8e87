// What attention promises about bits, and what NaN must not reach.

#include <gtest/gtest.h>

#include <algorithm>
#include <cmath>
#include <vector>

#include "quire/base/error.h"
#include "quire/base/thread_pool.h"
#include "quire/ops/attention/attention.h"
#include "tests/ops/attention/paged_case.h"

namespace quire::test {
namespace {

/// The forms in which one cache may lie in memory.
std::vector<PagedForm> forms(DType dtype) {
  std::vector<PagedForm> out;
  for (const std::int64_t Z : {5, 16, 64, 256, 400}) {
    for (const KLayout layout : {KLayout::kRows, KLayout::kBlocks}) {
      if (layout == KLayout::kBlocks && Z % 16 != 0) continue;
      PagedForm form;
      form.dtype = dtype;
      form.layout = layout;
      form.Z = Z;
      form.G = 2;
      form.K = 32;
      form.U = 48;
      form.head_first = layout == KLayout::kBlocks;
      form.order = static_cast<std::uint64_t>(Z);
      form.table = Z == 16 ? Table::kHeads : Z == 64 ? Table::kCsr : Table::kSequences;
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

TEST(AttentionBits, OnePromptInChunksOrTokenByToken) {
  constexpr std::int64_t S = 281;
  set_threads(1);  // thousands of tiny calls
  std::size_t dtypes = 0;
  for (const DType dtype : {DType::kF32, DType::kBF16, DType::kI8}) {
    std::size_t turn = dtypes++;  // each form meets each option with one of the dtypes
    for (const PagedForm& form : forms(dtype)) {
      PagedCase kv(form, {S});
      for (const AttentionSpec& spec : {specs()[turn++ % 3]}) {
        const Queries whole({S}, 6, 32);
        const AttentionResult at_once = whole.attend(kv.view(), spec);
        for (const std::int64_t chunk : {1, 7}) {
          // One token at a time only around the ends of tiles and chunks: the rest is the same.
          for (std::int64_t t = 0; t < S; t += chunk) {
            if (chunk == 1 && t % 64 > 2 && t % 64 < 62 && t % 16 != 5) continue;
            const std::int64_t end = std::min(S, t + chunk);
            kv.lengths()[0] = end;
            const AttentionResult part = Queries({end - t}, 6, 32, t).attend(kv.view(), spec);
            ASSERT_TRUE(same_bits(part, rows(at_once, t, end)))
                << to_string(dtype) << ", pages of " << form.Z << ", chunks of " << chunk
                << ", token " << t;
          }
        }
        kv.lengths()[0] = S;
      }
    }
  }
}

TEST(AttentionBits, WherePagesLieChangesNothing) {
  const std::vector<std::int64_t> lengths = {300, 70, 0, 257}, counts = {40, 1, 2, 3};
  for (const DType dtype : {DType::kF32, DType::kF16, DType::kI8}) {
    for (const AttentionSpec& spec : specs()) {
      AttentionResult first;
      bool any = false;
      for (const PagedForm& form : forms(dtype)) {
        const PagedCase kv(form, lengths);
        const AttentionResult result = Queries(counts, 6, 32).attend(kv.view(), spec);
        if (!any) first = result;
        any = true;
        EXPECT_TRUE(same_bits(result, first)) << to_string(dtype) << ", pages of " << form.Z;
      }
    }
  }
}

TEST(AttentionBits, PAG_03_BatchCompositionChangesNothing) {
  const std::vector<std::int64_t> lengths = {300, 70, 0, 257}, counts = {40, 1, 2, 3};
  for (const PagedForm& form : forms(DType::kBF16)) {
    PagedCase kv(form, lengths);
    const AttentionResult together = Queries(counts, 6, 32).attend(kv.view(), causal());
    std::int64_t row = 0;
    for (std::size_t b = 0; b < counts.size(); ++b) {
      // The other sequences bring no queries, or other ones.
      std::vector<std::int64_t> others(counts.size(), 0);
      others[b] = counts[b];
      if (b > 0) others[0] = 5;
      const AttentionResult result = Queries(others, 6, 32).attend(kv.view(), causal());
      const std::int64_t begin = b > 0 ? 5 : 0;
      EXPECT_TRUE(
          same_bits(rows(result, begin, begin + counts[b]), rows(together, row, row + counts[b])))
          << "sequence " << b << ", pages of " << form.Z;
      row += counts[b];
    }
  }
}

TEST(AttentionBits, ThreadsChangeNothing) {
  const std::vector<std::int64_t> counts = {200, 1, 3};
  for (const PagedForm& form : forms(DType::kF16)) {
    const PagedCase kv(form, {300, 900, 64});
    for (const AttentionSpec& spec : specs()) {
      set_threads(1);
      const AttentionResult one = Queries(counts, 6, 32).attend(kv.view(), spec);
      for (const int threads : {2, 7}) {
        set_threads(threads);
        EXPECT_TRUE(same_bits(Queries(counts, 6, 32).attend(kv.view(), spec), one))
            << threads << " threads, pages of " << form.Z;
      }
    }
  }
  set_threads(2);
}

TEST(AttentionBits, HeadsThatAreComputedTogetherOrAlone) {
  constexpr std::int64_t G = 5;
  for (const std::int64_t Z : {5, 16}) {
    for (const Table table : {Table::kSequences, Table::kHeads}) {
      PagedForm form;
      form.layout = Z == 16 ? KLayout::kBlocks : KLayout::kRows;
      form.Z = Z;
      form.G = G;
      form.table = table;
      form.lengths_per_head = true;
      // Long enough for pieces of several heads; one sees nothing, one little.
      const PagedCase kv(form, {2600, 2800, 0, 257, 2600}, {0, 300, 0, 64, 255});
      for (const std::int64_t T : {1, 4}) {
        const Queries all({T}, 2 * G, 16);
        const AttentionResult together = all.attend(kv.view(), causal());
        for (std::int64_t g = 0; g < G; ++g) {
          const Tensor q_NHK = all.q_NHK.slice(1, 2 * g, 2 * g + 2).contiguous_copy();
          const AttentionResult alone =
              attention(q_NHK, all.start_J, one_head(kv.view(), g), causal());
          EXPECT_TRUE(same_bits(alone.out_NHU, together.out_NHU.slice(1, 2 * g, 2 * g + 2)))
              << "head " << g << ", T " << T << ", pages of " << Z;
          EXPECT_TRUE(same_bits(alone.lse_NH, together.lse_NH.slice(1, 2 * g, 2 * g + 2)));
        }
      }
    }
  }
}

TEST(AttentionBits, ADroppedBeginningEqualsTheFullCacheWithTheSameWindow) {
  for (const PagedForm& form : forms(DType::kBF16)) {
    for (const std::int64_t dropped : {1, 16, 60, 64, 100, 256, 290}) {
      AttentionSpec spec = causal();
      spec.window_left = 50;
      constexpr std::int64_t S = 350;
      for (const std::int64_t T : {1, 5, 9}) {
        const PagedCase full(form, {S}), rest(form, {S - dropped}, {dropped});
        EXPECT_TRUE(same_bits(Queries({T}, 6, 32).attend(full.view(), spec),
                              Queries({T}, 6, 32).attend(rest.view(), spec)))
            << "dropped " << dropped << ", T " << T << ", pages of " << form.Z;
      }
    }
  }
}

TEST(AttentionBits, FLA_15_NanInKeysThatNobodySeesReachesNothing) {
  constexpr std::int64_t S = 330, T = 30;
  const std::int64_t many[] = {1, 2, 6};
  std::size_t turn = 0;
  for (const DType dtype : {DType::kF32, DType::kF16, DType::kI8}) {
    ++turn;
    for (PagedForm form : forms(dtype)) {
      if (form.table == Table::kHeads) form.table = Table::kSequences;
      // None for every form, and one of the others in turn.
      for (const std::int64_t bias_heads : {std::int64_t{0}, many[turn++ % 3]}) {
        form.bias_heads = bias_heads;
        AttentionSpec spec = causal();
        spec.window_left = 200;
        PagedCase clean(form, {S}), poisoned(form, {S});
        for (std::int64_t s = 40; s < S && bias_heads > 0; s += 3) {
          for (std::int64_t h = 0; h < bias_heads; ++h) {
            clean.set_bias(0, s, h, -kInfinity);
            poisoned.set_bias(0, s, h, -kInfinity);
          }
          for (std::int64_t g = 0; g < 2; ++g) poisoned.poison(0, g, s, true, true);
        }
        // Before the window of the first query.
        for (std::int64_t s = 0; s < S - T - 200; ++s)
          for (std::int64_t g = 0; g < 2; ++g) poisoned.poison(0, g, s, true, true);
        for (const std::int64_t count : {T, std::int64_t{1}}) {
          EXPECT_TRUE(same_bits(Queries({count}, 6, 32).attend(clean.view(), spec),
                                Queries({count}, 6, 32).attend(poisoned.view(), spec)))
              << to_string(dtype) << ", pages of " << form.Z << ", bias heads " << bias_heads
              << ", T " << count;
        }
      }
    }
  }
}

TEST(AttentionBits, FLA_15_NanBehindAMaskReachesNothing) {
  constexpr std::int64_t S = 100, T = 9;
  std::vector<float> mask;
  for (std::int64_t i = 0; i < S * T; ++i) mask.push_back(i % S % 7 == 2 ? -kInfinity : 0.25f);
  for (const DType dtype : {DType::kF32, DType::kI8}) {
    PagedForm form;
    form.dtype = dtype;
    AttentionSpec spec = causal();
    spec.mask_TS = mask.data();
    spec.mask_stride = S;
    PagedCase clean(form, {S}), poisoned(form, {S});
    for (std::int64_t s = 2; s < S; s += 7) poisoned.poison(0, 0, s, true, true);
    EXPECT_TRUE(same_bits(Queries({T}, 3, 16).attend(clean.view(), spec),
                          Queries({T}, 3, 16).attend(poisoned.view(), spec)))
        << to_string(dtype);
  }
}

TEST(AttentionBits, FLA_15_NanInOneKeyReachesExactlyTheRowsThatSeeIt) {
  constexpr std::int64_t S = 300, T = 60;
  std::size_t turn = 0;
  for (const DType dtype : {DType::kF32, DType::kBF16, DType::kI8}) {
    for (const PagedForm& form : forms(dtype)) {
      // Two of the four for each form, the others with its next dtype.
      const bool ends = turn++ % 2 == 0;
      for (const std::int64_t key : {ends ? 245 : 255, ends ? 299 : 256}) {
        for (const bool in_key : {true, false}) {
          AttentionSpec spec = causal();
          spec.window_left = 20;
          const PagedCase clean(form, {S});
          PagedCase poisoned(form, {S});
          poisoned.poison(0, 1, key, in_key, !in_key);
          const AttentionResult a = Queries({T}, 6, 32).attend(clean.view(), spec);
          const AttentionResult b = Queries({T}, 6, 32).attend(poisoned.view(), spec);
          for (std::int64_t t = 0; t < T; ++t) {
            for (std::int64_t h = 0; h < 6; ++h) {
              const std::int64_t position = S - T + t;
              const bool sees = h / 3 == 1 && position >= key && position - key <= 20;
              const Tensor out = b.out_NHU.slice(0, t, t + 1).slice(1, h, h + 1),
                           lse = b.lse_NH.slice(0, t, t + 1).slice(1, h, h + 1);
              const std::string where =
                  concat(to_string(dtype), ", pages of ", form.Z, ", key ", key,
                         in_key ? " (key)" : " (value)", ", query ", t, ", head ", h);
              if (sees) {
                ASSERT_TRUE(std::isnan(out.data<float>()[0])) << where;
                ASSERT_EQ(std::isnan(lse.data<float>()[0]), in_key) << where;
              } else {
                ASSERT_TRUE(same_bits(out, a.out_NHU.slice(0, t, t + 1).slice(1, h, h + 1)))
                    << where;
                ASSERT_TRUE(same_bits(lse, a.lse_NH.slice(0, t, t + 1).slice(1, h, h + 1)))
                    << where;
              }
            }
          }
        }
      }
    }
  }
}

TEST(AttentionBits, AnInfiniteValueWithoutWeightDoesNotDependOnItsNeighbours) {
  // Weights that underflow beside values that are not finite: how many queries come at once may not
  // decide what 0 · ∞ is.
  PagedForm form;
  form.K = 16;
  PagedCase kv(form, {70});
  for (std::int64_t s = 0; s < 70; s += 5) kv.set_value(0, 0, s, 3, kInfinity);
  AttentionSpec spec = causal();
  spec.scale = 100;
  const AttentionResult whole = Queries({70}, 1, 16).attend(kv.view(), spec);
  for (std::int64_t t = 0; t < 70; ++t) {
    kv.lengths()[0] = t + 1;
    EXPECT_TRUE(same_bits(Queries({1}, 1, 16, t).attend(kv.view(), spec), rows(whole, t, t + 1)))
        << "query " << t;
  }
}

TEST(AttentionBits, PAG_05_B10_T15_EmptyRows) {
  const float sinks[] = {2.0f, -kInfinity};
  PagedForm form;
  for (const std::int64_t T : {3, 60}) {
    const PagedCase kv(form, {1, 0});
    AttentionSpec spec = causal();
    const AttentionResult result = Queries({T, T}, 2, 16).attend(kv.view(), spec);
    spec.sink_H = sinks;
    const AttentionResult sunk = Queries({T, T}, 2, 16).attend(kv.view(), spec);
    for (std::int64_t n = 0; n < 2 * T; ++n) {
      if (n == T - 1) continue;  // the only query that sees the only key
      for (std::int64_t h = 0; h < 2; ++h) {
        EXPECT_EQ(result.lse_NH.data<float>()[n * 2 + h], -kInfinity);
        EXPECT_EQ(sunk.lse_NH.data<float>()[n * 2 + h], sinks[h]) << "only the sink is there";
        for (std::int64_t u = 0; u < 16; ++u) {
          EXPECT_EQ(result.out_NHU.data<float>()[(n * 2 + h) * 16 + u], 0.0f);
          EXPECT_EQ(sunk.out_NHU.data<float>()[(n * 2 + h) * 16 + u], 0.0f);
        }
      }
    }
  }
}

TEST(AttentionBits, ARowWithEveryKeyBiasedAwayIsEmpty) {
  PagedForm form;
  form.bias_heads = 1;
  PagedCase kv(form, {70});
  for (std::int64_t s = 0; s < 70; ++s) kv.set_bias(0, s, 0, -kInfinity);
  const AttentionResult result = Queries({8}, 2, 16).attend(kv.view(), causal());
  for (int i = 0; i < 16; ++i) EXPECT_EQ(result.lse_NH.data<float>()[i], -kInfinity);
  for (int i = 0; i < 256; ++i) EXPECT_EQ(result.out_NHU.data<float>()[i], 0.0f);
}

TEST(AttentionBits, ANanQueryReachesOnlyItsRows) {
  PagedForm form;
  const PagedCase kv(form, {70});
  Queries queries({20}, 2, 16);
  const AttentionResult clean = queries.attend(kv.view(), causal());
  queries.q_NHK.mutable_data<float>()[(7 * 2 + 1) * 16 + 3] = kNan;
  const AttentionResult result = queries.attend(kv.view(), causal());
  EXPECT_TRUE(same_bits(rows(result, 0, 7), rows(clean, 0, 7)));
  EXPECT_TRUE(same_bits(rows(result, 8, 20), rows(clean, 8, 20)));
  EXPECT_EQ(result.lse_NH.data<float>()[14], clean.lse_NH.data<float>()[14]);
  EXPECT_TRUE(std::isnan(result.lse_NH.data<float>()[15]));
}

// Columns of values are summed 64 at a time, some of them where they lie and some gathered.
TEST(AttentionBits, AValueThatIsNotFiniteStaysInItsColumn) {
  constexpr std::int64_t S = 330, T = 300, U = 144, H = 4;
  for (const DType dtype : {DType::kF32, DType::kBF16, DType::kF16}) {
    for (const std::int64_t Z : {5, 16, 400}) {
      for (const AttentionSpec& spec : specs()) {
        PagedForm form;
        form.dtype = dtype;
        form.Z = Z;
        form.G = 2;
        form.K = 32;
        form.U = U;
        form.head_first = Z == 400;
        const PagedCase clean(form, {S});
        PagedCase poisoned(form, {S});
        const std::int64_t slot = 185, columns[] = {3, 70, 131};  // of kv head 1
        for (const std::int64_t u : columns) poisoned.set_value(0, 1, slot, u, kInfinity);
        const Queries queries({T}, H, form.K);
        const AttentionResult whole = queries.attend(clean.view(), spec),
                              with = queries.attend(poisoned.view(), spec);
        const float *a = whole.out_NHU.data<float>(), *b = with.out_NHU.data<float>();
        for (std::int64_t t = 0; t < T; ++t) {
          const std::int64_t position = S - T + t;
          const bool sees = slot <= position && position - slot <= spec.window_left;
          for (std::int64_t h = 0; h < H; ++h) {
            for (std::int64_t u = 0; u < U; ++u, ++a, ++b) {
              const bool hit = sees && h >= H / 2 && std::count(columns, columns + 3, u) > 0;
              ASSERT_TRUE(hit ? *b == kInfinity : *b == *a)
                  << to_string(dtype) << ", pages of " << Z << ", query " << t << ", head " << h
                  << ", column " << u << ": " << *b << ", clean " << *a;
            }
          }
        }
      }
    }
  }
}

}  // namespace
}  // namespace quire::test

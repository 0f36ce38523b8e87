#include "quire/ops/attention/attention_backward.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <string>
#include <vector>

#include "quire/base/error.h"
#include "quire/base/thread_pool.h"
#include "tests/ops/attention/backward_case.h"

namespace quire::test {
namespace {

using testing::HasSubstr;
using testing::ThrowsMessage;

std::string name(const PagedForm& form) {
  return concat(to_string(form.dtype), ", pages of ", form.Z, ", G ", form.G, ", K ", form.K,
                ", U ", form.U, form.layout == KLayout::kBlocks ? ", blocks" : ", rows",
                form.head_first ? ", head first" : "");
}

TEST(AttentionBackward, HandWorked) {
  // dout is 1: out 5, dS = 1/4 · 3 and 3/4 · (−1).
  const TwoKeys two(1);
  const AttentionResult result = attention(two.q_NHK, two.start_J, two.kv, causal());
  float dk[2] = {100, 200}, dv[2] = {10, 20};  // added to
  AttentionGradients gradients;
  gradients.dk_pages = dk;
  gradients.dv_pages = dv;
  attention_backward(gradients, two.q_NHK, Tensor(), two.q_NHK, two.start_J, two.kv, causal(),
                     result);
  EXPECT_FLOAT_EQ(gradients.dq_NHK.data<float>()[0], -0.75f * std::log(3.0f));
  EXPECT_FLOAT_EQ(dk[0], 100.75f);
  EXPECT_FLOAT_EQ(dk[1], 199.25f);
  EXPECT_FLOAT_EQ(dv[0], 10.25f);
  EXPECT_FLOAT_EQ(dv[1], 20.75f);
}

TEST(AttentionBackward, PAG_08_PAG_12_PAG_17_EqualsTheNaiveLoopsInEveryStorage) {
  for (const DType dtype : {DType::kF32, DType::kF16, DType::kBF16, DType::kI8}) {
    for (const std::int64_t Z : {1, 2, 7, 16, 64, 256}) {
      for (const KLayout layout : {KLayout::kRows, KLayout::kBlocks}) {
        if (layout == KLayout::kBlocks && Z % 16 != 0) continue;
        PagedForm form;
        form.dtype = dtype;
        form.layout = layout;
        form.Z = Z;
        form.G = 2;
        form.K = 32;
        form.U = Z == 7 ? 20 : 32;
        form.head_first = Z % 2 == 0;
        const PagedCase kv(form, {0, 1, 63, 64, 65, 300});
        const Queries queries({2, 1, 70, 1, 3, 130}, 4, 32);
        expect_reference(BackwardCase(queries, kv.view(), causal()), name(form));
      }
    }
  }
}

TEST(AttentionBackward, PAG_08_FLA_01_FLA_07_EveryHeadSize) {
  for (const std::int64_t K : {1, 3, 4, 16, 20, 33, 64, 80, 96, 128, 192, 256, 511, 512}) {
    for (const std::int64_t U : {K, std::int64_t{1}, std::int64_t{48}, std::int64_t{67}}) {
      PagedForm form;
      form.Z = 64;
      form.K = K;
      form.U = U;
      form.dtype = K % 2 == 0 ? DType::kF32 : DType::kBF16;
      form.layout = K % 3 == 0 ? KLayout::kBlocks : KLayout::kRows;
      const PagedCase kv(form, {130, 5});
      expect_reference(BackwardCase(Queries({9, 1}, 2, K), kv.view(), causal()), name(form));
    }
  }
}

/// bf16 and f16 queries: against the reference at their own rounded numbers.
TEST(AttentionBackward, PAG_12_FLA_01_T16_QueriesOfHalfPrecision) {
  for (const DType dtype : {DType::kBF16, DType::kF16}) {
    PagedForm form;
    form.dtype = dtype;
    form.G = 2;
    form.K = form.U = 64;
    const PagedCase kv(form, {150});
    Queries queries({80}, 4, 64);
    const Tensor half = queries.q_NHK.to(dtype);
    queries.q_NHK = half.to(DType::kF32);
    const BackwardCase at(queries, kv.view(), causal());
    const Gradients whole = at.ours();
    // An f32 output beside queries of half precision changes nothing but the rounding of dq.
    const Gradients found = at.backward(half, queries.attend(kv.view(), causal()));
    EXPECT_EQ(found.k_PZGK, whole.k_PZGK);
    EXPECT_EQ(found.v_PZGU, whole.v_PZGU);
    const double ulp = dtype == DType::kBF16 ? 0x1p-8 : 0x1p-11;
    EXPECT_LE(distance(found.q_NHK, whole.q_NHK), ulp * largest(whole.q_NHK));
    // An output in half precision costs what its rounding costs.
    const AttentionResult rounded = attention(half, queries.start_J, kv.view(), causal());
    ASSERT_EQ(rounded.out_NHU.dtype(), dtype);
    const Gradients coarse = at.backward(half, rounded);
    EXPECT_LE(distance(coarse.k_PZGK, whole.k_PZGK), 8 * ulp * largest(whole.k_PZGK));
    EXPECT_LE(distance(coarse.q_NHK, whole.q_NHK), 8 * ulp * largest(whole.q_NHK));
  }
}

TEST(AttentionBackward, PAG_08_TwiceIsDouble) {
  PagedForm form;
  form.G = 2;
  form.bias_heads = 2;
  const PagedCase kv(form, {70, 33});
  const std::vector<float> sink = {0.5f, -1, 2, 0};
  AttentionSpec spec = causal();
  spec.slope_H = spec.sink_H = sink.data();
  const Queries queries({9, 40}, 4, 16);
  const BackwardCase at(queries, kv.view(), spec);
  const Gradients once = at.ours(1), twice = at.ours(2);
  each_gradient([&](const char* what, std::vector<double> Gradients::*x) {
    std::vector<double> expected = once.*x;
    if (x != &Gradients::q_NHK)
      for (double& number : expected) number *= 2;
    EXPECT_EQ(twice.*x, expected) << what;
  });
}

/// The numbers in `pages` differ from NaN only where sequences have keys.
TEST(AttentionBackward, PAG_03_PAG_08_T22_UnusedSlotsAndPagesReceiveNothing) {
  for (const std::int64_t Z : {4, 16, 100}) {
    PagedForm form;
    form.Z = Z;
    const PagedCase kv(form, {37, 3});  // every other slot is NaN, and two pages are nobody's
    const Queries queries({5, 3}, 1, 16);
    const Gradients found = BackwardCase(queries, kv.view(), causal()).ours();
    std::size_t with_gradient = 0;
    for (std::size_t key = 0; key < found.k_PZGK.size() / 16; ++key) {
      bool any = false;
      for (std::size_t k = 0; k < 16; ++k) {
        EXPECT_TRUE(std::isfinite(found.k_PZGK[16 * key + k]));
        any = any || found.k_PZGK[16 * key + k] != 0;
      }
      with_gradient += any ? 1 : 0;
    }
    EXPECT_EQ(with_gradient, 40u) << "pages of " << Z;
  }
}

TEST(AttentionBackward, FLA_15_NanInAMaskedKeyReachesNothing) {
  for (const DType dtype : {DType::kF32, DType::kBF16}) {
    PagedForm form;
    form.dtype = dtype;
    form.bias_heads = 1;
    PagedCase clean(form, {100}), poisoned(form, {100});
    // Key 50 by its bias; keys 90 to 99 by position, for all queries of a top-left sequence.
    clean.set_bias(0, 50, 0, -kInfinity);
    poisoned.set_bias(0, 50, 0, -kInfinity);
    poisoned.poison(0, 0, 50, true, true);
    for (std::int64_t s = 90; s < 100; ++s) poisoned.poison(0, 0, s, true, true);
    AttentionSpec spec = causal();
    spec.alignment = Alignment::kTopLeft;
    const Queries queries({90}, 2, 16);
    const Gradients expected = BackwardCase(queries, clean.view(), spec).ours(),
                    found = BackwardCase(queries, poisoned.view(), spec).ours();
    each_gradient([&](const char* what, std::vector<double> Gradients::*x) {
      EXPECT_EQ(found.*x, expected.*x) << what;
    });
  }
}

TEST(AttentionBackward, FLA_15_NanInAKeyReachesThoseWhoSeeItAlone) {
  PagedForm form;
  PagedCase clean(form, {100}), poisoned(form, {100});
  poisoned.poison(0, 0, 60, true, true);
  const Queries queries({100}, 2, 16);
  const Gradients expected = BackwardCase(queries, clean.view(), causal()).ours(),
                  found = BackwardCase(queries, poisoned.view(), causal()).ours();
  for (std::size_t i = 0; i < found.q_NHK.size(); ++i) {
    if (i < 60 * 2 * 16) {
      EXPECT_EQ(found.q_NHK[i], expected.q_NHK[i]) << i;
    } else {
      EXPECT_TRUE(std::isnan(found.q_NHK[i])) << i;
    }
  }
}

/// Sequences 0 to 3 share the pages of a prefix; 3 has nothing of its own.
TEST(AttentionBackward, PAG_09_T20_SharedPagesReceiveTheSumOverSequences) {
  for (const std::int64_t Z : {1, 3, 16, 64, 80}) {
    PagedForm form;
    form.Z = Z;
    form.G = 2;
    form.bias_heads = 1;
    const std::int64_t shared = 160 / Z;  // whole pages
    const std::vector<std::int64_t> lengths = {200, 170, 300, shared * Z};
    PagedCase together(form, lengths);
    const std::int64_t W = together.view().W;
    for (std::int64_t b = 1; b < 4; ++b)
      for (std::int64_t w = 0; w < shared; ++w)
        together.table()[ref::flat(b * W + w)] = together.table()[ref::flat(w)];
    const Queries queries({20, 30, 40, 7}, 4, 16);
    const BackwardCase at(queries, together.view(), causal());
    expect_reference(at, concat("shared pages of ", Z));
    // One sequence after the other, added up.
    Gradients sum;
    for (std::int64_t b = 0; b < 4; ++b) {
      std::vector<std::int64_t> alone(4, 0);
      alone[ref::flat(b)] = lengths[ref::flat(b)];
      PagedCase copy = together;
      copy.lengths() = alone;
      const Gradients part = BackwardCase(queries, copy.view(), causal()).ours();
      if (b == 0) sum = part;
      each_gradient([&](const char*, std::vector<double> Gradients::*x) {
        for (std::size_t i = 0; b > 0 && i < (sum.*x).size(); ++i) (sum.*x)[i] += (part.*x)[i];
      });
    }
    const Gradients found = at.ours();
    each_gradient([&](const char* what, std::vector<double> Gradients::*x) {
      EXPECT_LE(distance(found.*x, sum.*x), 1e-5 * (1 + largest(sum.*x)))
          << what << ", pages of " << Z;
    });
  }
}

TEST(AttentionBackward, PAG_09_T20_APageTwiceInOneTable) {
  PagedForm form;
  form.Z = 4;
  PagedCase kv(form, {16, 12});
  kv.table()[2] = kv.table()[0];
  kv.table()[ref::flat(kv.view().W)] = kv.table()[1];
  expect_reference(BackwardCase(Queries({16, 5}, 2, 16), kv.view(), causal()), "a page twice");
}

TEST(AttentionBackward, PAG_15_T20_TheSameBitsOnAnyNumberOfThreadsAndAnyPlaceOfPages) {
  for (const std::int64_t G : {1, 2, 3}) {
    PagedForm form;
    form.G = G;
    form.bias_heads = 1;
    const std::vector<std::int64_t> lengths = {300, 200, 70};
    const std::vector<float> slope = {0.1f, 0.2f, -0.1f, 0.3f, 0.05f, 0.0f};
    AttentionSpec spec = causal();
    spec.slope_H = slope.data();
    const Queries queries({150, 200, 3}, 2 * G, 16);
    Gradients first;
    for (const int threads : {1, 2, 7, 1}) {
      set_threads(threads);
      const PagedCase kv(form, lengths);
      const Gradients found = BackwardCase(queries, kv.view(), spec).ours();
      if (first.q_NHK.empty()) first = found;
      each_gradient([&](const char* what, std::vector<double> Gradients::*x) {
        EXPECT_EQ(found.*x, first.*x) << what << ", G " << G << ", threads " << threads;
      });
      // Pages elsewhere: dq and what is summed over keys stay, dk and dv move with the pages.
      PagedForm moved = form;
      moved.order = 9;
      const PagedCase other(moved, lengths);
      const Gradients again = BackwardCase(queries, other.view(), spec).ours();
      EXPECT_EQ(again.q_NHK, first.q_NHK);
      EXPECT_EQ(again.slope_H, first.slope_H);
      std::vector<double> x = again.k_PZGK, y = first.k_PZGK;
      std::sort(x.begin(), x.end());
      std::sort(y.begin(), y.end());
      EXPECT_EQ(x, y);
    }
    set_threads(2);
  }
}

/// A sequence's dq, and the gradients of its own pages, know nothing of the rest of the batch.
TEST(AttentionBackward, PAG_15_TheSameBitsAloneAndInABatch) {
  PagedForm form;
  form.Z = 8;
  const PagedCase kv(form, {90, 75});
  const Queries both({40, 30}, 2, 16), alone({40, 0}, 2, 16);
  const Gradients x = BackwardCase(both, kv.view(), causal(), Dlse::kNone).ours(),
                  y = BackwardCase(alone, kv.view(), causal(), Dlse::kNone).ours();
  EXPECT_EQ(std::vector<double>(x.q_NHK.begin(), x.q_NHK.begin() + 40 * 2 * 16), y.q_NHK);
  for (std::size_t i = 0; i < y.k_PZGK.size(); ++i) {
    if (y.k_PZGK[i] != 0) {
      EXPECT_EQ(x.k_PZGK[i], y.k_PZGK[i]);
    }
  }
}

/// Backward of two halves of the keys with the final out and lse: the backward of the whole.
TEST(AttentionBackward, FLA_08_PartsWithTheFinalResultNeedNoBackwardOfTheMerge) {
  PagedForm form;
  form.Z = 32;
  const PagedCase kv(form, {64});
  const Queries queries({7}, 2, 16);
  AttentionSpec spec;
  spec.window_right = kUnlimited;
  const BackwardCase whole(queries, kv.view(), spec);
  Gradients expected = whole.ours(), sum;
  const std::int64_t half = 32;
  KvView first = kv.view(), second = kv.view();
  first.length_BG = second.length_BG = &half;
  second.table += 1;
  const AttentionResult merged =
      merge_attention(queries.attend(first, spec), queries.attend(second, spec));
  const Gradients a = BackwardCase(queries, first, spec).backward(queries.q_NHK, merged),
                  b = BackwardCase(queries, second, spec).backward(queries.q_NHK, merged);
  each_gradient([&](const char* what, std::vector<double> Gradients::*x) {
    std::vector<double> parts = a.*x;
    for (std::size_t i = 0; i < parts.size(); ++i) parts[i] += (b.*x)[i];
    EXPECT_LE(distance(parts, expected.*x), 1e-5 * (1 + largest(expected.*x))) << what;
  });
}

TEST(AttentionBackward, NullLeavesAGradientOut) {
  PagedForm form;
  form.G = 2;
  const PagedCase kv(form, {70});
  const Queries queries({40}, 4, 16);
  const BackwardCase at(queries, kv.view(), causal());
  const AttentionResult result = queries.attend(kv.view(), causal());
  const Gradients all = at.backward(queries.q_NHK, result);
  for (const int which : {0, 1, 2}) {
    std::vector<float> pages(ref::flat(kv.view().P * kv.view().k_strides.page));
    AttentionGradients gradients;
    if (which == 1) gradients.dk_pages = pages.data();
    if (which == 2) gradients.dv_pages = pages.data();
    attention_backward(gradients, at.dout(), at.dlse(), queries.q_NHK, queries.start_J, kv.view(),
                       causal(), result);
    EXPECT_EQ(values(gradients.dq_NHK), all.q_NHK);
    if (which > 0) {
      EXPECT_EQ(std::vector<double>(pages.begin(), pages.end()),
                which == 1 ? all.k_PZGK : all.v_PZGU);
    }
  }
}

class AttentionBackwardErrors : public testing::Test {
 protected:
  AttentionBackwardErrors() : result(queries.attend(kv, spec)), dout(result.out_NHU) {}
  void expect_error(const std::string& text) {
    EXPECT_THAT(
        [&] {
          attention_backward(gradients, dout, dlse, queries.q_NHK, queries.start_J, kv, spec,
                             result);
        },
        ThrowsMessage<ArgumentError>(HasSubstr(text)));
  }
  PagedCase pages{PagedForm{}, {20}};
  KvView kv = pages.view();
  AttentionSpec spec = causal();
  Queries queries{{4}, 2, 16};
  AttentionResult result;
  Tensor dout, dlse;
  AttentionGradients gradients;
  float number = 0;
};

TEST_F(AttentionBackwardErrors, Shapes) {
  dout = dout.slice(0, 0, 3);
  expect_error("q_NHK: N is 4, but dout_NHU has N = 3");
}
TEST_F(AttentionBackwardErrors, ValueSize) {
  kv.U = 8;
  expect_error("dout_NHU: U is 16, but kv has U = 8");
}
TEST_F(AttentionBackwardErrors, DTypeOfDout) {
  dout = dout.to(DType::kBF16);
  expect_error("dout_NHU is bf16, but q_NHK is f32");
}
TEST_F(AttentionBackwardErrors, DTypeOfLse) {
  result.lse_NH = result.lse_NH.to(DType::kF64);
  expect_error("result.lse_NH is f64; it must be f32");
}
TEST_F(AttentionBackwardErrors, Dlse) {
  dlse = Tensor::zeros({4, 3}, DType::kF32);
  expect_error("dlse_NH is [4, 3], but result.lse_NH is [4, 2]");
}
TEST_F(AttentionBackwardErrors, PAG_22_T19_Table) {
  pages.table()[1] = 99;
  expect_error("page 1 of sequence 0 is 99");
}
TEST_F(AttentionBackwardErrors, BiasThatIsNotThere) {
  gradients.dbias = &number;
  expect_error("gradients.dbias is given, but kv.bias is not");
}
TEST_F(AttentionBackwardErrors, SlopesThatAreNotThere) {
  gradients.dslope_H = &number;
  expect_error("gradients.dslope_H is given, but spec.slope_H is not");
}
TEST_F(AttentionBackwardErrors, SinksThatAreNotThere) {
  gradients.dsink_H = &number;
  expect_error("gradients.dsink_H is given, but spec.sink_H is not");
}
TEST_F(AttentionBackwardErrors, PAG_17_PagesOfI8HaveNoGradient) {
  PagedForm form;
  form.dtype = DType::kI8;
  pages = PagedCase(form, {20});
  kv = pages.view();
  gradients.dk_pages = &number;
  expect_error("i8 pages have none; only queries do");
}

}  // namespace
}  // namespace quire::test

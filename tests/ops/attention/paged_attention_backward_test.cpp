#include "quire/ops/attention/paged_attention_backward.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <cmath>
#include <string>
#include <vector>

#include "quire/base/error.h"
#include "quire/ops/attention/attention.h"
#include "tests/support/gradient_check.h"

namespace quire::test {
namespace {

using testing::ElementsAre;
using testing::HasSubstr;
using testing::ThrowsMessage;

std::vector<std::int64_t> row(const Tensor& rows, std::int64_t b, std::int64_t g) {
  const std::int64_t S = rows.size(2);
  const auto* at = rows.data<std::int64_t>() + (b * rows.size(1) + g) * S;
  return {at, at + S};
}

Tensor table_of(const std::vector<std::int32_t>& pages, std::int64_t B) {
  return Tensor::of(std::span<const std::int32_t>(pages),
                    {B, static_cast<std::int64_t>(pages.size()) / B});
}

TEST(PagedRows, PAG_01_TheRowsOfBoostrsOwnTest) {
  const Tensor rows = paged_rows(table_of({0, 1, 2, 3}, 2), 2, 2, 3);
  EXPECT_EQ(rows.shape(), (Shape{2, 2, 3}));
  EXPECT_THAT(row(rows, 0, 0), ElementsAre(0, 2, 4));
  EXPECT_THAT(row(rows, 0, 1), ElementsAre(1, 3, 5));
  EXPECT_THAT(row(rows, 1, 0), ElementsAre(8, 10, 12));
}

TEST(PagedRows, PAG_22_Errors) {
  const auto expect_error = [](const Tensor& table, std::int64_t S, const std::string& text) {
    EXPECT_THAT([&] { paged_rows(table, 2, 1, S); }, ThrowsMessage<ArgumentError>(HasSubstr(text)));
  };
  expect_error(table_of({0, 1}, 1), 5, "S is 5, but the table has 2 pages of 2");
  expect_error(table_of({0, -1}, 1), 3, "page 1 of sequence 0 is -1");
  expect_error(Tensor::zeros({1, 2}, DType::kI64), 3, "table_BW is i64; it must be i32");
}

/// A case of boostr's: numbers by formula, four pages of two slots, head size 4.
struct Boostr {
  std::int64_t B, H, G, T, S;
  std::vector<std::int32_t> table;
  AttentionSpec spec;

  static Tensor wave(Shape shape, double (*f)(double), double step, DType dtype) {
    Tensor out = Tensor::zeros(std::move(shape), DType::kF64);
    for (std::int64_t i = 0; i < out.elements(); ++i)
      out.mutable_data<double>()[i] = f(step * static_cast<double>(i));
    return dtype == DType::kF64 ? out : out.to(dtype);
  }
  Tensor q(DType dtype) const { return wave({B, H, T, 4}, std::cos, 0.01, dtype); }
  Tensor dout(DType dtype) const { return wave({B, H, T, 4}, std::sin, 0.03, dtype); }
  PagedKv kv(DType dtype) const {
    return {wave({4, 2, G, 4}, std::sin, 0.017, dtype), wave({4, 2, G, 4}, std::cos, 0.023, dtype),
            table_of(table, B),
            index_of(std::vector<std::int64_t>(static_cast<std::size_t>(B), S), {B})};
  }

  /// [B, H, T, 4], by attention() over the same pages.
  Tensor out(DType dtype) const {
    const PagedKv pages = kv(dtype);
    KvView view;
    view.k_pages = pages.k_pages_PZGK.data<void>();
    view.v_pages = pages.v_pages_PZGU.data<void>();
    view.k_strides = view.v_strides = {2 * G * 4, G * 4, 4};
    view.dtype = dtype;
    view.P = view.K = view.U = 4;
    view.Z = 2;
    view.G = G;
    view.table = pages.table_BW.data<std::int32_t>();
    view.W = 2;
    view.length_BG = pages.length_B.data<std::int64_t>();
    std::vector<std::int32_t> start;
    for (std::int64_t b = 0; b <= B; ++b) start.push_back(static_cast<std::int32_t>(b * T));
    const Tensor by_query = q(dtype).transpose(1, 2).contiguous_copy().view({B * T, H, 4});
    return attention(by_query, Tensor::of(std::span<const std::int32_t>(start), {B + 1}), view,
                     spec)
        .out_NHU.view({B, T, H, 4})
        .transpose(1, 2);
  }
  PagedAttentionGradients backward(DType dtype) const {
    return paged_attention_backward(dout(dtype), q(dtype), kv(dtype), out(dtype), spec);
  }
};

AttentionSpec top_left() {
  AttentionSpec spec;
  spec.alignment = Alignment::kTopLeft;
  return spec;
}
AttentionSpec bottom_right() {
  AttentionSpec spec;
  spec.alignment = Alignment::kBottomRight;
  return spec;
}
AttentionSpec no_mask() {
  AttentionSpec spec;
  spec.window_right = kUnlimited;
  return spec;
}

double norm1(const Tensor& x) {
  double sum = 0;
  for (const double number : values(x)) sum += std::abs(number);
  return sum;
}

/// G1 to G6: Σ out, |dq|₁, |dk|₁, |dv|₁ by f64 autograd.
struct Golden {
  const char* name;
  Boostr at;
  double out, dq, dk, dv;
};

const std::vector<Golden>& goldens() {
  static const std::vector<Golden> all = {
      {"G1",
       {2, 2, 1, 4, 4, {0, 1, 2, 3}, top_left()},
       59.984848274,
       0.112518868,
       1.262363779,
       44.265143544},
      {"G2",
       {2, 2, 1, 4, 4, {0, 1, 0, 2}, top_left()},
       62.818283883,
       0.187920635,
       1.323196199,
       44.265143544},
      {"G3",
       {2, 4, 2, 4, 4, {3, 1, 0, 2}, top_left()},
       81.205550810,
       3.582180460,
       11.995486401,
       71.617512382},
      {"G4",
       {2, 4, 2, 2, 4, {3, 1, 0, 2}, top_left()},
       42.096152073,
       0.085316056,
       1.737476821,
       44.265143544},
      {"G5",
       {2, 4, 2, 2, 4, {3, 1, 0, 2}, bottom_right()},
       38.026787406,
       3.609583125,
       13.901784959,
       44.265143544},
      {"G6",
       {2, 4, 2, 3, 3, {3, 1, 0, 2}, no_mask()},
       58.460147837,
       4.903029180,
       17.629622636,
       65.398419050},
  };
  return all;
}

TEST(PagedAttentionBackward, PAG_02_PAG_04_PAG_08_PAG_09_GoldensOfBoostrsSemantics) {
  for (const Golden& golden : goldens()) {
    const PagedAttentionGradients found = golden.at.backward(DType::kF64);
    double sum = 0;
    for (const double number : values(golden.at.out(DType::kF64))) sum += number;
    // The goldens have nine decimals.
    EXPECT_NEAR(sum, golden.out, 1e-9) << golden.name;
    EXPECT_NEAR(norm1(found.dq_BHTK), golden.dq, 1e-9) << golden.name;
    EXPECT_NEAR(norm1(found.dk_pages_PZGK), golden.dk, 1e-9) << golden.name;
    EXPECT_NEAR(norm1(found.dv_pages_PZGU), golden.dv, 1e-9) << golden.name;
  }
  const std::vector<double> alone = values(goldens()[0].at.backward(DType::kF64).dv_pages_PZGU),
                            shared = values(goldens()[1].at.backward(DType::kF64).dv_pages_PZGU);
  const double first[] = {1.2647981, 1.3710240, 1.4760160, 1.5796797},
               both[] = {4.8316386, 4.9662242, 5.0963405, 5.2218704};
  for (std::size_t i = 0; i < 4; ++i) {
    EXPECT_NEAR(alone[i], first[i], 1e-7);
    EXPECT_NEAR(shared[i], both[i], 1e-7);
  }
}

/// boostr's paged_bwd_matches_dense_reference, restated: dense softmax attention by loops, with dv
/// checked as well, and with a page that both sequences share.
TEST(PagedAttentionBackward, PAG_08_PAG_09_BoostrsTestWithValuesAndSharedPages) {
  for (const std::vector<std::int32_t>& table :
       {std::vector<std::int32_t>{0, 1, 2, 3}, std::vector<std::int32_t>{0, 1, 0, 2}}) {
    const Boostr at{2, 2, 1, 4, 4, table, top_left()};
    const std::vector<double> q = values(at.q(DType::kF32)), dout = values(at.dout(DType::kF32)),
                              k = values(at.kv(DType::kF32).k_pages_PZGK),
                              v = values(at.kv(DType::kF32).v_pages_PZGU);
    std::vector<double> dq(q.size()), dk(k.size()), dv(v.size());
    for (std::size_t r = 0; r < q.size() / 4; ++r) {  // (b, h, t)
      const std::size_t b = r / 8, t = r % 4;
      const auto row_of = [&](std::size_t s) {
        return static_cast<std::size_t>(table[2 * b + s / 2]) * 2 + s % 2;
      };
      double p[4], dp[4], sum = 0, delta = 0;
      for (std::size_t s = 0; s <= t; ++s) {
        p[s] = dp[s] = 0;
        for (std::size_t i = 0; i < 4; ++i) {
          p[s] += 0.5 * q[4 * r + i] * k[4 * row_of(s) + i];
          dp[s] += dout[4 * r + i] * v[4 * row_of(s) + i];
        }
        sum += p[s] = std::exp(p[s]);
      }
      for (std::size_t s = 0; s <= t; ++s) delta += (p[s] /= sum) * dp[s];
      for (std::size_t s = 0; s <= t; ++s) {
        for (std::size_t i = 0; i < 4; ++i) {
          dv[4 * row_of(s) + i] += p[s] * dout[4 * r + i];
          dq[4 * r + i] += 0.5 * p[s] * (dp[s] - delta) * k[4 * row_of(s) + i];
          dk[4 * row_of(s) + i] += 0.5 * p[s] * (dp[s] - delta) * q[4 * r + i];
        }
      }
    }
    const PagedAttentionGradients found = at.backward(DType::kF32);
    expect_close(values(found.dq_BHTK), dq, "dq", 1e-6);
    expect_close(values(found.dk_pages_PZGK), dk, "dk", 1e-6);
    expect_close(values(found.dv_pages_PZGU), dv, "dv", 1e-6);
  }
}

TEST(PagedAttentionBackward, PAG_01_PagesWithHeadsFirstGiveTheSameBits) {
  for (const DType dtype : {DType::kF32, DType::kF64, DType::kBF16}) {
    const Boostr at = goldens()[4].at;
    const PagedKv plain = at.kv(dtype);
    PagedKv turned = plain;
    turned.k_pages_PZGK = plain.k_pages_PZGK.transpose(1, 2).contiguous_copy().transpose(1, 2);
    turned.v_pages_PZGU = plain.v_pages_PZGU.transpose(1, 2).contiguous_copy().transpose(1, 2);
    const PagedAttentionGradients x = at.backward(dtype),
                                  y = paged_attention_backward(at.dout(dtype), at.q(dtype), turned,
                                                               at.out(dtype), at.spec);
    EXPECT_EQ(values(x.dq_BHTK), values(y.dq_BHTK));
    EXPECT_EQ(values(x.dk_pages_PZGK), values(y.dk_pages_PZGK));
    EXPECT_EQ(values(x.dv_pages_PZGU), values(y.dv_pages_PZGU));
  }
}

TEST(PagedAttentionBackward, PAG_12_PoolsOfBf16HaveGradientsOfF32) {
  const PagedAttentionGradients found = goldens()[2].at.backward(DType::kBF16);
  EXPECT_EQ(found.dq_BHTK.dtype(), DType::kBF16);
  EXPECT_EQ(found.dk_pages_PZGK.dtype(), DType::kF32);
  EXPECT_EQ(found.dv_pages_PZGU.dtype(), DType::kF32);
  EXPECT_NEAR(norm1(found.dv_pages_PZGU), goldens()[2].dv, 0x1p-8 * goldens()[2].dv);
}

TEST(PagedAttentionBackward, PAG_22_ATableEntryOutsideThePool) {
  Boostr at = goldens()[0].at;
  const Tensor out = at.out(DType::kF32);
  at.table[3] = 4;
  EXPECT_THAT(
      [&] {
        paged_attention_backward(at.dout(DType::kF32), at.q(DType::kF32), at.kv(DType::kF32), out,
                                 at.spec);
      },
      ThrowsMessage<ArgumentError>(HasSubstr("page 1 of sequence 1 is 4")));
}

}  // namespace
}  // namespace quire::test

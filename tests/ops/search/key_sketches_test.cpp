#include "quire/ops/search/key_sketches.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <algorithm>
#include <cmath>
#include <limits>
#include <numeric>

#include "quire/base/error.h"
#include "quire/base/half.h"
#include "tests/ops/merge/keys.h"
#include "tests/support/message_of.h"

namespace quire::test {
namespace {

std::vector<float> normals(Rng& rng, std::int64_t n) {
  std::vector<float> out;
  for (std::int64_t i = 0; i < n; ++i) out.push_back(rng.normal());
  return out;
}

Tensor matrix(const std::vector<float>& x, std::int64_t columns) {
  return Tensor::of(std::span<const float>(x), {std::ssize(x) / columns, columns});
}

/// Weights as different as those of real keys.
std::vector<float> some_weights(Rng& rng, std::int64_t K) {
  std::vector<float> out = normals(rng, K);
  for (float& x : out) x = std::exp(x);
  return out;
}

/// What the sketch of one key says of it, and a query in 8 bits, as the definitions have them.
std::vector<double> sketched(const float* rest, const std::vector<float>& weight) {
  const std::size_t K = weight.size();
  std::vector<double> y(K), out(K);
  double square = 0, product = 0;
  for (std::size_t k = 0; k < K; ++k) {
    y[k] = double{rest[k]} / double{weight[k]};
    square += y[k] * y[k];
  }
  const double border = 0.996 * std::sqrt(square / static_cast<double>(K));
  for (std::size_t k = 0; k < K; ++k) {
    const int code = (y[k] >= -border ? 1 : 0) + (y[k] >= 0 ? 1 : 0) + (y[k] >= border ? 1 : 0);
    out[k] = code - 1.5;
    product += y[k] * out[k];
  }
  const double scale = double{to_float(to_bfloat16(static_cast<float>(square / product)))};
  for (std::size_t k = 0; k < K; ++k) out[k] *= scale * double{weight[k]};
  return out;
}
std::vector<double> rounded(const float* q, const std::vector<float>& weight) {
  double largest = 0;
  for (std::size_t k = 0; k < weight.size(); ++k)
    largest = std::max(largest, std::fabs(double{q[k]} * double{weight[k]}));
  std::vector<double> out;
  for (std::size_t k = 0; k < weight.size(); ++k)
    out.push_back(std::nearbyint(double{q[k]} * double{weight[k]} / largest * 127) / 127 * largest /
                  double{weight[k]});
  return out;
}

TEST(KeySketches, ScoresAreThoseOfTheDefinition) {
  Rng rng(1);
  for (const std::int64_t K : {1, 16, 40, 64, 80, 128, 200}) {
    for (const std::int64_t R : {1, 3, 4, 7}) {
      const std::int64_t N = 75;
      const std::vector<float> weight = some_weights(rng, K), rest = normals(rng, N * K),
                               q = normals(rng, R * K);
      KeySketches sketches(weight);
      sketches.add(matrix({rest.begin(), rest.begin() + 30 * K}, K));
      sketches.add(matrix({rest.begin() + 30 * K, rest.end()}, K));
      ASSERT_EQ(sketches.size(), N);
      const std::vector<SketchRun> runs{{3, 1}, {10, 40}, {70, 5}, {0, 16}, {7, 0}};
      const std::vector<float> mean = normals(rng, R * std::ssize(runs));
      Tensor score = Tensor::empty({R, 62 + 16}, DType::kF32);
      sketch_scores(sketches, {runs, mean}, matrix(q, K), 0.3, score);
      for (std::int64_t r = 0; r < R; ++r) {
        const std::vector<double> query = rounded(q.data() + r * K, weight);
        const float* found = score.data<float>() + r * 78;
        for (std::size_t c = 0; c < runs.size(); ++c) {
          for (std::int64_t i = runs[c].begin; i < runs[c].begin + runs[c].n; ++i) {
            const std::vector<double> key = sketched(rest.data() + i * K, weight);
            const double expected =
                double{mean[static_cast<std::size_t>(r) * runs.size() + c]} +
                0.3 * std::inner_product(query.begin(), query.end(), key.begin(), 0.0);
            ASSERT_NEAR(*found++, expected, 2e-5 * (1 + std::fabs(expected))) << K << " " << i;
          }
        }
      }
    }
  }
}

TEST(KeySketches, TellKeysApartAndAreRightOnAverage) {
  Rng rng(2);
  const std::int64_t K = 64, N = 2000;
  const std::vector<float> weight = some_weights(rng, K), q = normals(rng, K);
  std::vector<float> rest = normals(rng, N * K);
  for (std::int64_t i = 0; i < N * K; ++i)
    rest[static_cast<std::size_t>(i)] *= weight[static_cast<std::size_t>(i % K)];
  KeySketches sketches(weight);
  sketches.add(matrix(rest, K));
  const std::vector<SketchRun> runs{{0, N}};
  const std::vector<float> mean{0};
  Tensor score = Tensor::empty({1, N + 16}, DType::kF32);
  sketch_scores(sketches, {runs, mean}, matrix(q, K), 1, score);
  double squares = 0, off = 0, along = 0;
  for (std::int64_t i = 0; i < N; ++i) {
    const double exact = std::inner_product(q.begin(), q.end(), rest.begin() + i * K, 0.0);
    const double found = double{score.data<float>()[i]};
    squares += exact * exact;
    off += (found - exact) * (found - exact);
    along += found * exact;
  }
  EXPECT_NEAR(along / squares, 1, 0.02);  // neither too large nor too small
  EXPECT_LT(off / squares, 0.16);         // four steps leave an eighth of the variance
}

TEST(KeySketches, KeysThatAreTheirMeanOrNoNumbersScoreAsTheMean) {
  const std::int64_t K = 20;
  const float none = std::numeric_limits<float>::quiet_NaN(),
              huge = std::numeric_limits<float>::infinity();
  std::vector<float> rest(static_cast<std::size_t>(4 * K));
  rest[static_cast<std::size_t>(K + 3)] = none;
  rest[static_cast<std::size_t>(2 * K + 3)] = huge;
  std::fill(rest.begin() + 3 * K, rest.end(), 1e30f);  // whose square is none
  KeySketches sketches(std::vector<float>(static_cast<std::size_t>(K), 1.0f));
  sketches.add(matrix(rest, K));
  const std::vector<SketchRun> runs{{0, 4}};
  const std::vector<float> mean{1.5f, -2, 7};
  std::vector<float> q(static_cast<std::size_t>(3 * K), 1.0f);
  q[static_cast<std::size_t>(2 * K)] = none;
  Tensor score = Tensor::empty({3, 20}, DType::kF32);
  sketch_scores(sketches, {runs, mean}, matrix(q, K), 0, score);
  for (std::int64_t r = 0; r < 2; ++r)
    for (std::int64_t i = 0; i < 4; ++i)
      EXPECT_EQ(score.data<float>()[r * 20 + i], mean[static_cast<std::size_t>(r)]) << r << i;
}

TEST(KeySketches, BitsDoNotDependOnTheRunsNorOnWhatWasDropped) {
  Rng rng(3);
  const std::int64_t K = 96, N = 100;
  const std::vector<float> weight = some_weights(rng, K), rest = normals(rng, N * K),
                           q = normals(rng, 2 * K);
  KeySketches once(weight), again(weight);
  once.add(matrix(rest, K));
  again.add(matrix(normals(rng, 33 * K), K));
  again.truncate(0);
  for (std::int64_t i = 0; i < N; i += 25)
    again.add(matrix({rest.begin() + i * K, rest.begin() + (i + 25) * K}, K));
  Tensor whole = Tensor::empty({2, N + 16}, DType::kF32), parts = whole.contiguous_copy();
  const std::vector<SketchRun> one{{0, N}};
  std::vector<SketchRun> many;
  for (std::int64_t i = 0; i < N; i += 10) many.push_back({i, 10});
  sketch_scores(once, {one, std::vector<float>(2, 0.5f)}, matrix(q, K), 0.1, whole);
  sketch_scores(again, {many, std::vector<float>(20, 0.5f)}, matrix(q, K), 0.1, parts);
  for (std::int64_t r = 0; r < 2; ++r)
    for (std::int64_t i = 0; i < N; ++i)
      ASSERT_EQ(whole.data<float>()[r * (N + 16) + i], parts.data<float>()[r * (N + 16) + i]);
}

TEST(KeySketches, SharesAndWhatOfThemIsNotTaken) {
  const float score[] = {0, 1, 2, 3, -200, 1, 1, 1, 1, 1};
  Tensor wide = Tensor::zeros({2, 21}, DType::kF32);
  for (std::int64_t r = 0; r < 2; ++r)
    std::copy_n(score + 5 * r, 5, wide.mutable_data<float>() + 21 * r);
  std::vector<float> rank(5);
  const std::vector<float> total{2, 1};
  shares_of_scores(wide, total, rank);
  const double share[] = {std::exp(-2.0), std::exp(-1.0), 1, std::exp(1.0), 0};
  for (std::int64_t i = 0; i < 5; ++i) {
    EXPECT_NEAR(wide.data<float>()[i], share[i], 1e-6);
    EXPECT_NEAR(rank[static_cast<std::size_t>(i)], share[i] + 1, 1e-6);
  }
  std::vector<std::uint8_t> taken(21);
  taken[1] = taken[2] = taken[3] = 1;
  const std::vector<SketchRun> runs{{4, 2}, {9, 1}, {30, 2}};
  std::vector<float> rest(6);
  shares_not_taken(wide, taken, runs, rest);
  EXPECT_NEAR(rest[0], -2, 1e-6);
  EXPECT_EQ(rest[1], -std::numeric_limits<float>::infinity());
  EXPECT_EQ(rest[2], -std::numeric_limits<float>::infinity());
  EXPECT_NEAR(rest[3], 0, 1e-6);
  EXPECT_EQ(rest[4], -std::numeric_limits<float>::infinity());
  EXPECT_NEAR(rest[5], 0, 1e-6);
}

TEST(KeySketches, SayWhatIsWrong) {
  using testing::HasSubstr;
  EXPECT_THAT(message_of([] { KeySketches(std::vector<float>{}); }), HasSubstr("no numbers"));
  EXPECT_THAT(message_of([] {
                KeySketches(std::vector<float>{1, 0});
              }),
              HasSubstr("weight_K has 0 at 1"));
  KeySketches sketches(std::vector<float>(8, 1.0f));
  EXPECT_THAT(message_of([&] {
                sketches.add(Tensor::zeros({2, 9}, DType::kF32));
              }),
              HasSubstr("expected K = 8"));
  EXPECT_THAT(message_of([&] {
                sketches.add(Tensor::zeros({2, 8}, DType::kF64));
              }),
              HasSubstr("expected f32"));
  sketches.add(Tensor::zeros({2, 8}, DType::kF32));
  EXPECT_THAT(message_of([&] { sketches.truncate(3); }), HasSubstr("truncate to 3 of 2 keys"));
  const Tensor q = Tensor::zeros({1, 8}, DType::kF32);
  const auto ask = [&](std::vector<SketchRun> runs, std::vector<float> mean, std::int64_t W) {
    return message_of([&] {
      Tensor score = Tensor::zeros({1, W}, DType::kF32);
      sketch_scores(sketches, {runs, mean}, q, 1, score);
    });
  };
  EXPECT_THAT(ask({{1, 2}}, {0}, 18), HasSubstr("a run of 2 keys from 1 on of 2"));
  EXPECT_THAT(ask({{0, 2}}, {}, 18), HasSubstr("mean_RC has 0 numbers for 1 queries and 1 runs"));
  EXPECT_THAT(ask({{0, 2}}, {0}, 17), HasSubstr("16 places behind them"));
}

}  // namespace
}  // namespace quire::test

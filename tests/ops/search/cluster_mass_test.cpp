#include "quire/ops/search/cluster_mass.h"

#include <gtest/gtest.h>

#include <cmath>
#include <span>
#include <vector>

#include "quire/base/error.h"
#include "quire/base/thread_pool.h"
#include "quire/ops/merge/sequence_view.h"
#include "tests/ops/merge/keys.h"
#include "tests/support/message_of.h"

namespace quire::test {
namespace {

TEST(ClusterMass, HandWorked) {
  const Tensor c = floats({1, 0, 0, 2}, {1, 2, 2}), q = floats({3, 1, -1, 4}, {1, 2, 2});
  const SequenceView view(c);
  KvView kv = view.kv();
  const float bias[] = {1.5f, -kInfinity};
  kv.bias = bias;
  const Tensor mass = cluster_mass(q, kv, 0, 0.5);
  EXPECT_EQ(values(mass), (std::vector<double>{3, -kInfinity, 1, -kInfinity}));
  // With the variances (0, 2) and (100, 0): ½ · ¼ · (9·0 + 1·2) = ¼; the others are cut at 3.
  const Tensor sigma = floats({0, 2, 100, 0}, {1, 2, 2});
  const SequenceView variance(sigma);
  kv.bias = nullptr;
  EXPECT_EQ(values(cluster_mass(q, kv, 0, 0.5, variance.kv())),
            (std::vector<double>{1.75, 4, 2.5, 7}));
}

TEST(ClusterMass, EqualsTheFormulaInAnyForm) {
  std::vector<PagedForm> forms = paged_forms();
  PagedForm per_head = forms[0];
  per_head.bias_heads = 2;
  forms.push_back(per_head);
  for (PagedForm form : forms) {
    if (form.bias_heads == 0) form.bias_heads = 1;
    for (const std::int64_t K : {20, 32}) {
      form.K = K;
      form.U = 32;
      const PagedCase pages(form, {131});
      const KvView kv = pages.view();
      const Tensor q = random_tensor({3, 6, K}, 7, DType::kF32);
      const Tensor mass = cluster_mass(q, kv, 0, 0);
      for (std::int64_t row = 0; row < 18; ++row) {
        const std::int64_t g = row % 6 / 3;
        const auto keys = rows_of(kv, 0, g, false);
        for (std::int64_t m = 0; m < 131; ++m) {
          double expected = 0;
          for (std::int64_t k = 0; k < K; ++k)
            expected +=
                double{q.data<float>()[row * K + k]} * keys[static_cast<std::size_t>(m * K + k)];
          const std::int64_t at = ref::page_of(kv, 0, g, m / kv.Z) * kv.Z + m % kv.Z;
          expected = expected / std::sqrt(static_cast<double>(K)) +
                     double{kv.bias[at * kv.bias_heads + (kv.bias_heads == 1 ? 0 : g)]};
          ASSERT_NEAR(mass.data<float>()[row * 131 + m], expected, 1e-5)
              << to_string(form.dtype) << ", pages of " << form.Z;
        }
      }
    }
  }
}

TEST(ClusterMass, ThreadsAndOtherQueriesChangeNoBit) {
  const Tensor c = random_tensor({2, 700, 24}, 1, DType::kF32),
               sigma = random_tensor({2, 700, 24}, 2, DType::kF32),
               q = random_tensor({5, 6, 24}, 3, DType::kF32);
  const SequenceView view(c), variance(sigma);
  set_threads(1);
  const Tensor one = cluster_mass(q, view.kv(), 0, 0, variance.kv());
  for (const int threads : {2, 5}) {
    set_threads(threads);
    EXPECT_TRUE(same_bits(one, cluster_mass(q, view.kv(), 0, 0, variance.kv())));
  }
  set_threads(2);
  for (std::int64_t n = 0; n < 5; ++n)
    EXPECT_TRUE(same_bits(one.slice(0, n, n + 1),
                          cluster_mass(q.slice(0, n, n + 1), view.kv(), 0, 0, variance.kv())));
}

TEST(ClusterMass, OneHeadAloneHasTheSameBits) {
  const Tensor c = random_tensor({2, 300, 24}, 1, DType::kF32),
               q = random_tensor({1, 6, 24}, 3, DType::kF32);
  const SequenceView view(c);
  const Tensor all = cluster_mass(q, view.kv(), 0, 0.3);
  Tensor one = Tensor::zeros({1, 6, 300}, DType::kF32);
  cluster_mass_of_head(q, view.kv(), 0, 0.3, 1, one);
  for (std::int64_t i = 0; i < 6 * 300; ++i)
    EXPECT_EQ(one.data<float>()[i], i < 3 * 300 ? 0 : all.data<float>()[i]);
  EXPECT_THROW(cluster_mass_of_head(q, view.kv(), 0, 0.3, 2, one), ArgumentError);
  Tensor other = Tensor::zeros({1, 6, 299}, DType::kF32);
  EXPECT_THROW(cluster_mass_of_head(q, view.kv(), 0, 0.3, 0, other), ArgumentError);
}

TEST(ClusterMass, SumsOfExponentials) {
  const Tensor x = random_tensor({1, 1, 40}, 5, DType::kF32);
  std::vector<float> row(x.data<float>(), x.data<float>() + 40), mask(40, 0), out(3);
  mask[3] = mask[39] = -kInfinity;
  row[5] = 300;  // e^300 is beyond f32
  for (int i = 16; i < 32; ++i) mask[static_cast<std::size_t>(i)] = -kInfinity;
  log_sum_exp_of_16(row, mask, out);
  EXPECT_FLOAT_EQ(out[0], 300);
  EXPECT_EQ(out[1], -kInfinity);
  double sum = 0;
  for (std::size_t i = 32; i < 39; ++i) sum += std::exp(double{row[i]});
  EXPECT_NEAR(double{out[2]}, std::log(sum), 1e-5);
  EXPECT_NEAR(log_sum_exp(std::span(row).subspan(32, 7)), std::log(sum), 1e-6);
  EXPECT_EQ(log_sum_exp({}), -double{kInfinity});
  EXPECT_THROW(log_sum_exp_of_16(row, mask, std::span(out).first(2)), ArgumentError);
}

TEST(ClusterRank, HET_05_TheHeadsOfAGroupVoteTogether) {
  const std::int64_t N = 2, H = 6, G = 2, M = 1500;
  const Tensor mass = random_tensor({N, H, M}, 1, DType::kF32),
               bias = random_tensor({G, M}, 2, DType::kF32),
               hot = random_tensor({N, H}, 3, DType::kF32);
  for (const GroupVote vote : {GroupVote::kSum, GroupVote::kMax}) {
    const Tensor rank = cluster_rank(mass, bias, hot, vote);
    ASSERT_EQ(rank.shape(), (Shape{N, G, M}));
    for (std::int64_t n = 0; n < N; ++n) {
      for (std::int64_t g = 0; g < G; ++g) {
        std::vector<double> expected(static_cast<std::size_t>(M));
        for (std::int64_t h = 3 * g; h < 3 * g + 3; ++h) {
          double total = std::exp(double{hot.data<float>()[n * H + h]});
          for (std::int64_t m = 0; m < M; ++m)
            total += std::exp(double{mass.data<float>()[(n * H + h) * M + m]});
          for (std::int64_t m = 0; m < M; ++m) {
            const double share = std::exp(double{mass.data<float>()[(n * H + h) * M + m]} -
                                          double{bias.data<float>()[g * M + m]}) /
                                 total;
            double& at = expected[static_cast<std::size_t>(m)];
            at = vote == GroupVote::kSum ? at + share : std::max(at, share);
          }
        }
        for (std::int64_t m = 0; m < M; ++m) {
          const double x = expected[static_cast<std::size_t>(m)];
          ASSERT_NEAR(rank.data<float>()[(n * G + g) * M + m], x, 1e-6 * x + 1e-12);
        }
      }
    }
  }
}

TEST(ClusterRank, AHeadThatLooksElsewhereHasASmallVote) {
  // Head 0 is busy with what is read in any case; head 1 is not.
  const Tensor mass = floats({5, 0, 0, 5}, {1, 2, 2}), bias = floats({0, 0}, {1, 2});
  const auto rank = values(cluster_rank(mass, bias, floats({20, -10}, {1, 2})));
  EXPECT_LT(rank[0], 0.01);
  EXPECT_GT(rank[1], 0.99);
  // What is no cluster has rank 0, and a head that sees nothing has no vote.
  const auto none = values(cluster_rank(floats({-kInfinity, -kInfinity, -kInfinity, 1}, {1, 2, 2}),
                                        floats({-kInfinity, 0}, {1, 2}),
                                        floats({-kInfinity, -kInfinity}, {1, 2})));
  EXPECT_EQ(none, (std::vector<double>{0, 1}));
}

TEST(ClusterMass, Errors) {
  const Tensor c = random_tensor({2, 7, 4}, 1, DType::kF32);
  const SequenceView view(c);
  const auto has = [](const std::string& text, const char* part) {
    return text.find(part) != std::string::npos;
  };
  const auto message = [&](const Tensor& q, double scale) {
    return message_of([&] { cluster_mass(q, view.kv(), 0, scale); });
  };
  EXPECT_TRUE(has(message(Tensor::zeros({1, 4, 4}, DType::kF64), 0), "q_NHK is f64"));
  EXPECT_TRUE(has(message(Tensor::zeros({1, 4, 5}, DType::kF32), 0), "K = 4"));
  EXPECT_TRUE(has(message(Tensor::zeros({1, 3, 4}, DType::kF32), 0), "G = 2"));
  EXPECT_TRUE(has(message(Tensor::zeros({1, 4, 4}, DType::kF32), -1), "scale is -1"));
  EXPECT_TRUE(has(message_of([&] {
                    cluster_rank(Tensor::zeros({1, 3, 4}, DType::kF32),
                                 Tensor::zeros({2, 4}, DType::kF32),
                                 Tensor::zeros({1, 3}, DType::kF32));
                  }),
                  "H = 3"));
}

}  // namespace
}  // namespace quire::test

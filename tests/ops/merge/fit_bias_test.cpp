#include "quire/ops/merge/fit_bias.h"

#include <gtest/gtest.h>

#include <cmath>

#include "quire/base/error.h"
#include "quire/base/thread_pool.h"
#include "quire/ops/attention/attention.h"
#include "quire/ops/merge/sequence_view.h"
#include "tests/ops/merge/keys.h"
#include "tests/support/message_of.h"

namespace quire::test {
namespace {

AttentionResult attend(const Tensor& q_NHK, const KvView& kv) {
  AttentionSpec spec;
  spec.window_right = kUnlimited;
  const std::int32_t start[] = {0, static_cast<std::int32_t>(q_NHK.size(0))};
  return attention(q_NHK, Tensor::of(std::span<const std::int32_t>(start), {2}), kv, spec);
}

struct Case {
  std::int64_t G = 2, H = 4, N = 9, S = 150, M = 20, K = 12;
  Tensor k, v, q;
  std::vector<std::int64_t> group;

  explicit Case(std::uint64_t seed) {
    // Members lie around their group's centre.
    const std::vector<double> centre = values(random_tensor({G, M, K}, seed)),
                              noise = values(random_tensor({G, S, K}, seed + 1));
    std::vector<double> keys;
    for (std::int64_t g = 0; g < G; ++g) {
      for (std::int64_t s = 0; s < S; ++s) {
        const std::int64_t m = s * 7 % (M - 1);
        group.push_back(s % 29 == 0 ? -1 : m);
        for (std::int64_t i = 0; i < K; ++i)
          keys.push_back(centre[static_cast<std::size_t>((g * M + m) * K + i)] +
                         0.7 * noise[static_cast<std::size_t>((g * S + s) * K + i)]);
      }
    }
    k = floats(keys, {G, S, K});
    v = random_tensor({G, S, K}, seed + 2, DType::kF32);
    q = random_tensor({N, H, K}, seed + 3, DType::kF32);
  }
  Tensor groups() const { return index_of(group, {G, S}); }
};

/// The formula in double precision, without shifts: scores here are small.
std::vector<double> naive(const Case& c, const KvView& kv, const Tensor& lse,
                          const MergedKeys& merged) {
  std::vector<double> out;
  const auto q = values(c.q), lses = values(lse), k_m = values(merged.k_GMK),
             count = values(merged.count_GM);
  const double scale = 1 / std::sqrt(static_cast<double>(c.K));
  const auto dot = [&](std::size_t row, const std::vector<double>& k, std::size_t at) {
    double sum = 0;
    for (std::size_t i = 0; i < 12; ++i) sum += q[row * 12 + i] * k[at * 12 + i];
    return scale * sum;
  };
  for (std::int64_t g = 0; g < c.G; ++g) {
    const auto keys = rows_of(kv, 0, g, false);
    for (std::int64_t m = 0; m < c.M; ++m) {
      double up = 0, down = 0;
      for (std::int64_t n = 0; n < c.N; ++n) {
        for (std::int64_t h = g * 2; h < g * 2 + 2; ++h) {
          const auto row = static_cast<std::size_t>(n * c.H + h);
          const double total = std::exp(lses[row]);
          const double l = std::exp(dot(row, k_m, static_cast<std::size_t>(g * c.M + m)));
          double mass = 0;
          for (std::int64_t s = 0; s < c.S; ++s)
            if (c.group[static_cast<std::size_t>(g * c.S + s)] == m)
              mass += std::exp(dot(row, keys, static_cast<std::size_t>(s)));
          up += mass * l / (total * total);
          down += l * l / (total * total);
        }
      }
      const double log_count = std::log(count[static_cast<std::size_t>(g * c.M + m)]);
      out.push_back(std::min(log_count + 3, std::max(log_count - 3, std::log(up / down))));
    }
  }
  return out;
}

TEST(FitBias, EqualsTheFormula) {
  const Case c(1);
  const SequenceView view(c.k, c.v);
  const MergedKeys merged = group_mean(view.kv(), 0, c.groups(), c.M);
  const Tensor lse = attend(c.q, view.kv()).lse_NH;
  const auto found = values(fit_bias(c.q, lse, view.kv(), 0, c.groups(), merged));
  const auto expected = naive(c, view.kv(), lse, merged);
  for (std::size_t i = 0; i < found.size(); ++i) {
    if (std::isinf(expected[i])) {
      EXPECT_EQ(found[i], expected[i]) << i;
    } else {
      EXPECT_NEAR(found[i], expected[i], 4e-6) << i;
    }
  }
  // Jensen: the mean key alone gets too little, so the fit adds to the count's logarithm.
  double above = 0;
  for (std::int64_t i = 0; i < c.G * (c.M - 1); ++i) {
    const auto at = static_cast<std::size_t>(i + i / (c.M - 1));
    above += found[at] > double{merged.bias_GM.data<float>()[at]} ? 1 : 0;
  }
  EXPECT_GE(above, static_cast<double>(c.G * (c.M - 1)) * 0.9);
}

TEST(FitBias, IdenticalMembersNeedTheCountAlone) {
  Case c(5);
  for (std::int64_t i = 0; i < c.G * c.S; ++i) {
    const std::int64_t m = c.group[static_cast<std::size_t>(i)];
    for (std::int64_t x = 0; x < c.K; ++x)
      c.k.mutable_data<float>()[i * c.K + x] = static_cast<float>(m < 0 ? 3 : m % 5 - 2) * 0.25f;
  }
  const SequenceView view(c.k, c.v);
  const MergedKeys merged = group_mean(view.kv(), 0, c.groups(), c.M);
  const Tensor fitted =
      fit_bias(c.q, attend(c.q, view.kv()).lse_NH, view.kv(), 0, c.groups(), merged);
  for (std::int64_t i = 0; i < fitted.elements(); ++i) {
    const float count = merged.bias_GM.data<float>()[i];
    if (count == -kInfinity) {
      EXPECT_EQ(fitted.data<float>()[i], count);
    } else {
      EXPECT_NEAR(fitted.data<float>()[i], count, 1e-5) << i;
    }
  }
}

TEST(FitBias, StaysWithinThreeAndFinite) {
  Case c(9);
  // Keys of size 50: masses far beyond the range of a float.
  for (std::int64_t i = 0; i < c.k.elements(); ++i) c.k.mutable_data<float>()[i] *= 50;
  const SequenceView view(c.k, c.v);
  const MergedKeys merged = group_mean(view.kv(), 0, c.groups(), c.M);
  const Tensor lse = attend(c.q, view.kv()).lse_NH;
  const Tensor fitted = fit_bias(c.q, lse, view.kv(), 0, c.groups(), merged);
  const Tensor none =
      fit_bias(c.q.slice(0, 0, 0), lse.slice(0, 0, 0), view.kv(), 0, c.groups(), merged);
  for (std::int64_t i = 0; i < fitted.elements(); ++i) {
    const float count = merged.bias_GM.data<float>()[i];
    EXPECT_EQ(none.data<float>()[i], count);
    if (count == -kInfinity) continue;
    EXPECT_LE(std::abs(fitted.data<float>()[i] - count), 3.0001f) << i;
  }
}

TEST(FitBias, KVM_07_KeysLieInPagesOfAnyFormAndThreadsChangeNoBit) {
  for (const PagedForm& form : paged_forms()) {
    const PagedCase pages(form, {131});
    const KvView kv = pages.view();
    std::vector<double> keys;
    for (const std::int64_t g : {0, 1}) {
      const auto rows = rows_of(kv, 0, g, false);
      keys.insert(keys.end(), rows.begin(), rows.end());
    }
    const Tensor plain = floats(keys, {2, 131, 20}), q = random_tensor({5, 4, 20}, 1, DType::kF32);
    const SequenceView view(plain);
    std::vector<std::int64_t> group;
    for (std::int64_t i = 0; i < 262; ++i) group.push_back(i % 131 / 9);
    const Tensor groups = index_of(group, {2, 131});
    const MergedKeys merged = group_mean(view.kv(), 0, groups, 15);
    const Tensor lse = attend(q, view.kv()).lse_NH;
    set_threads(1);
    const Tensor one = fit_bias(q, lse, kv, 0, groups, merged);
    set_threads(3);
    EXPECT_TRUE(same_bits(one, fit_bias(q, lse, kv, 0, groups, merged)));
    set_threads(2);
    expect_close(values(one), values(fit_bias(q, lse, view.kv(), 0, groups, merged)),
                 std::string(to_string(form.dtype)), 1e-5);
  }
}

TEST(FitBias, Errors) {
  const Case c(1);
  const SequenceView view(c.k, c.v);
  const MergedKeys merged = group_mean(view.kv(), 0, c.groups(), c.M);
  const Tensor lse = attend(c.q, view.kv()).lse_NH;
  const auto has = [](const std::string& text, const char* part) {
    return text.find(part) != std::string::npos;
  };
  EXPECT_TRUE(
      has(message_of([&] { fit_bias(c.q.to(DType::kF64), lse, view.kv(), 0, c.groups(), merged); }),
          "q_NHK is f64"));
  EXPECT_TRUE(
      has(message_of([&] { fit_bias(c.q, lse, view.kv(), 0, c.groups().slice(1, 0, 4), merged); }),
          "group_GS is i64 [2, 4]"));
  EXPECT_TRUE(has(message_of([&] { fit_bias(c.q, lse, view.kv(), 0, c.groups(), merged, -1.0); }),
                  "scale is"));
}

}  // namespace
}  // namespace quire::test

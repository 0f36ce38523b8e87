#include <algorithm>
#include <cmath>

#include "quire/base/error.h"
#include "quire/cache/policies/average_rotation.h"
#include "quire/cache/policies/policies.h"

namespace quire::cache {
namespace {

class ExpectedAttention : public Policy {
 public:
  explicit ExpectedAttention(const ExpectedAttentionParameters& parameters) : p_(parameters) {
    QUIRE_CHECK(p_.sinks >= 0 && p_.future > 0, "expected_attention: ", p_.sinks, " sinks, ",
                p_.future, " positions to come");
  }
  std::string_view name() const override { return "expected_attention"; }
  Observe observe() const override { return {.moments = true, .moments_from = p_.sinks}; }
  std::int64_t sinks() const override { return p_.sinks; }

  void score(const HeadContext& head, std::span<float> score_S) const override {
    const std::int64_t K = head.spec->K, S = head.tokens, R = head.group();
    const AverageRotation rotation(head.spec->rope, K, S, p_.future);
    const double scale = head.spec->attention.scale != 0 ? head.spec->attention.scale
                                                         : 1 / std::sqrt(static_cast<double>(K));
    std::vector<double> expected(score_S.size()), total(score_S.size());
    for (std::int64_t r = 0; r < R; ++r) {
      const std::vector<double> mean = rotation.vector(head.mean_RK.subspan(at(r * K), at(K)));
      const std::vector<double> cov =
          rotation.matrix(head.cov_RKK.subspan(at(r * K * K), at(K * K)));
      double largest = -INFINITY, sum = 0;
      for (std::int64_t s = p_.sinks; s < S; ++s) {
        expected[at(s)] = log_expected(head.k_SK.data() + s * K, mean, cov, scale);
        largest = std::max(largest, expected[at(s)]);
      }
      for (std::int64_t s = p_.sinks; s < S; ++s)
        sum += expected[at(s)] = std::exp(expected[at(s)] - largest);
      for (std::int64_t s = p_.sinks; s < S; ++s)
        total[at(s)] += expected[at(s)] / sum / static_cast<double>(R);
    }
    for (std::int64_t s = 0; s < S; ++s) {
      double squares = 0;
      for (const float v : head.v_SU.subspan(at(s * head.spec->U), at(head.spec->U)))
        squares += double{v} * double{v};
      score_S[at(s)] = static_cast<float>(total[at(s)] * std::sqrt(squares));
    }
  }

 private:
  static std::size_t at(std::int64_t i) { return static_cast<std::size_t>(i); }
  static double log_expected(const float* k, std::span<const double> mean,
                             std::span<const double> cov, double scale) {
    double linear = 0, square = 0;
    for (std::size_t i = 0; i < mean.size(); ++i) {
      double row = 0;
      for (std::size_t j = 0; j < mean.size(); ++j) row += cov[i * mean.size() + j] * double{k[j]};
      linear += mean[i] * double{k[i]};
      square += row * double{k[i]};
    }
    return linear * scale + square * scale * scale / 2;
  }
  ExpectedAttentionParameters p_;
};

}  // namespace

std::unique_ptr<Policy> expected_attention_policy(const ExpectedAttentionParameters& parameters) {
  return std::make_unique<ExpectedAttention>(parameters);
}

}  // namespace quire::cache

#include <algorithm>
#include <cmath>
#include <map>

#include "quire/base/error.h"
#include "quire/base/half.h"
#include "quire/cache/policies/policies.h"

namespace quire::cache {
namespace {

class Quest : public Policy {
 public:
  explicit Quest(const QuestParameters& parameters) : p_(parameters) {
    QUIRE_CHECK(p_.page_tokens > 0 && p_.least_pages > 0 && p_.dense_layers >= 0,
                "quest: pages of ", p_.page_tokens, ", at least ", p_.least_pages);
  }
  std::string_view name() const override { return shared_by_group() ? "quest" : "quest_heads"; }
  bool shared_by_group() const override { return p_.pages == QuestPages::kOfGroup; }
  Decide decide() const override { return Decide::kEachStep; }
  std::int64_t floor_tokens() const override { return p_.least_pages * p_.page_tokens; }
  bool is_dense(std::int64_t layer) const override { return layer < p_.dense_layers; }

  void build(const HeadContext& head) override {
    const auto K = static_cast<std::size_t>(head.spec->K);
    std::vector<Half>& bounds = bounds_[{head.layer, head.g}];
    for (std::int64_t page = 0; page < head.tokens; page += p_.page_tokens) {
      std::vector<float> low(K, INFINITY), high(K, -INFINITY);
      for (std::int64_t s = page; s < std::min(head.tokens, page + p_.page_tokens); ++s) {
        for (std::size_t i = 0; i < K; ++i) {
          const float k = head.k_SK[static_cast<std::size_t>(s) * K + i];
          low[i] = std::min(low[i], k);
          high[i] = std::max(high[i], k);
        }
      }
      for (const float x : low) bounds.push_back(to_half(x));
      for (const float x : high) bounds.push_back(to_half(x));
    }
  }

  void score(const HeadContext& head, std::span<float> score_S) const override {
    const auto K = static_cast<std::size_t>(head.spec->K);
    const Half* bounds = bounds_.at({head.layer, head.g}).data();
    for (std::int64_t page = 0; page < head.tokens; page += p_.page_tokens, bounds += 2 * K) {
      float sum = 0;
      for (std::size_t i = 0; i < K; ++i) {
        const float low = to_float(bounds[i]), high = to_float(bounds[K + i]);
        for (std::size_t at = i; at < head.q_RK.size(); at += K)
          sum += std::max(head.q_RK[at] * low, head.q_RK[at] * high);
      }
      const std::int64_t size = std::min(p_.page_tokens, head.tokens - page);
      std::fill_n(score_S.begin() + page, size, sum);
    }
  }

  std::vector<std::int32_t> select(const HeadContext& head,
                                   std::span<const float> score_S) const override {
    const std::int64_t pages = std::max(p_.least_pages, head.budget / p_.page_tokens);
    return best_pages(score_S, p_.page_tokens, pages);
  }

  std::int64_t index_bytes(std::int64_t layer) const override {
    std::int64_t sum = 0;
    for (const auto& [at, bounds] : bounds_)
      if (at.first == layer) sum += static_cast<std::int64_t>(bounds.size() * sizeof(Half));
    return sum;
  }

 private:
  QuestParameters p_;
  std::map<std::pair<std::int64_t, std::int64_t>, std::vector<Half>> bounds_;  // low, high of pages
};

}  // namespace

std::unique_ptr<Policy> quest_policy(const QuestParameters& parameters) {
  return std::make_unique<Quest>(parameters);
}

}  // namespace quire::cache

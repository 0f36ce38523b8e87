#include <algorithm>
#include <bit>
#include <cmath>

#include "quire/base/error.h"
#include "quire/cache/policies/policies.h"
#include "quire/tensor/rng.h"

namespace quire::cache {
namespace {

class VAttention : public Policy {
 public:
  explicit VAttention(const VAttentionParameters& parameters) : p_(parameters) {
    QUIRE_CHECK(p_.sinks >= 0 && p_.recent >= 0 && p_.best >= 0 && p_.best <= 1,
                "vattention: ", p_.sinks, " sinks, ", p_.recent, " recent tokens, ", p_.best,
                " of the rest the best");
  }
  std::string_view name() const override { return "vattention"; }
  Decide decide() const override { return Decide::kEachStep; }
  Observe observe() const override { return {.query_mass = true}; }
  std::int64_t sinks() const override { return p_.sinks; }
  std::int64_t recent() const override { return p_.recent; }

  void score(const HeadContext& head, std::span<float> score_S) const override {
    std::copy(head.query_mass_S.begin(), head.query_mass_S.end(), score_S.begin());
  }

  std::vector<std::int32_t> select(const HeadContext& head,
                                   std::span<const float> score_S) const override {
    const std::vector<std::int32_t> best = best_of(head, score_S);
    // Everything else gets a number of its own, and the largest are the sample.
    std::uint64_t seed = p_.seed;
    for (const float q : head.q_RK)
      seed = seed * 0x9E3779B97F4A7C15U + std::bit_cast<std::uint32_t>(q);
    Rng rng(seed ^ static_cast<std::uint64_t>(head.layer * head.spec->G + head.g));
    std::vector<float> drawn(score_S.size());
    for (float& x : drawn) x = static_cast<float>(rng.uniform());
    for (const std::int32_t at : best) drawn[static_cast<std::size_t>(at)] = 2;
    return best_positions(drawn, head.budget, 0, 0);
  }

  bool bias(const HeadContext& head, std::span<const std::int32_t> selected,
            std::span<float> bias) const override {
    const std::vector<std::int32_t> best = best_of(head, head.query_mass_S);
    const auto rest = static_cast<float>(head.tokens - static_cast<std::int64_t>(best.size()));
    const auto sampled = static_cast<float>(selected.size() - best.size());
    for (std::size_t i = 0; i < selected.size(); ++i) {
      const bool is_best = std::binary_search(best.begin(), best.end(), selected[i]);
      bias[i] = is_best ? 0 : std::log(rest / sampled);
    }
    return selected.size() > best.size();
  }

 private:
  std::vector<std::int32_t> best_of(const HeadContext& head, std::span<const float> mass_S) const {
    const double left = static_cast<double>(head.budget - p_.sinks - p_.recent);
    const auto best = static_cast<std::int64_t>(std::max(p_.best * left, 0.0));
    return best_positions(mass_S, p_.sinks + p_.recent + best, p_.sinks, p_.recent);
  }
  VAttentionParameters p_;
};

}  // namespace

std::unique_ptr<Policy> vattention_policy(const VAttentionParameters& parameters) {
  return std::make_unique<VAttention>(parameters);
}

}  // namespace quire::cache

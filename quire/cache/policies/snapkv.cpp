#include <algorithm>

#include "quire/base/error.h"
#include "quire/cache/policies/policies.h"

namespace quire::cache {
namespace {

class SnapKv : public Policy {
 public:
  explicit SnapKv(const SnapKvParameters& parameters) : p_(parameters) {
    QUIRE_CHECK(p_.window > 0 && p_.kernel > 0 && p_.kernel % 2 == 1, "snapkv: window ", p_.window,
                ", kernel ", p_.kernel, "; the kernel must be odd");
  }
  std::string_view name() const override { return "snapkv"; }
  Observe observe() const override { return {.window = p_.window}; }
  std::int64_t recent() const override { return p_.window; }

  void score(const HeadContext& head, std::span<float> score_S) const override {
    // Averages over neighbours; outside and in the window itself there is 0.
    const std::int64_t end = std::max<std::int64_t>(0, head.tokens - p_.window);
    std::fill(score_S.begin(), score_S.end(), 0.0f);
    for (std::int64_t s = 0; s < end; ++s) {
      double sum = 0;
      for (std::int64_t at = std::max<std::int64_t>(0, s - p_.kernel / 2);
           at < std::min(end, s + p_.kernel / 2 + 1); ++at)
        sum += double{head.window_mass_S[static_cast<std::size_t>(at)]};
      score_S[static_cast<std::size_t>(s)] = static_cast<float>(sum);
    }
  }

 private:
  SnapKvParameters p_;
};

}  // namespace

std::unique_ptr<Policy> snapkv_policy(const SnapKvParameters& parameters) {
  return std::make_unique<SnapKv>(parameters);
}

}  // namespace quire::cache

#include <algorithm>

#include "quire/cache/policies/policies.h"

namespace quire::cache {
namespace {

class Full : public Policy {
 public:
  explicit Full(const Observe& observe) : observe_(observe) {}
  std::string_view name() const override { return "full"; }
  Observe observe() const override { return observe_; }
  std::int64_t floor_tokens() const override { return 0; }
  bool is_dense(std::int64_t /*layer*/) const override { return true; }
  void score(const HeadContext& /*head*/, std::span<float> score_S) const override {
    std::fill(score_S.begin(), score_S.end(), 0.0f);
  }

 private:
  Observe observe_;
};

}  // namespace

std::unique_ptr<Policy> full_policy() { return std::make_unique<Full>(Observe{}); }

std::unique_ptr<Policy> observing_policy(const Observe& observe) {
  return std::make_unique<Full>(observe);
}

std::unique_ptr<Policy> all_observing_policy() {
  return observing_policy({.reading_mass = true,
                           .window = SnapKvParameters{}.window,
                           .reread = KvZipParameters{}.piece,
                           .moments = true,
                           .moments_from = ExpectedAttentionParameters{}.sinks});
}

}  // namespace quire::cache

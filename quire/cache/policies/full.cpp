#include <algorithm>

#include "quire/cache/policies/policies.h"

namespace quire::cache {
namespace {

class Full : public Policy {
 public:
  std::string_view name() const override { return "full"; }
  std::int64_t floor_tokens() const override { return 0; }
  bool is_dense(std::int64_t /*layer*/) const override { return true; }
  void score(const HeadContext& /*head*/, std::span<float> score_S) const override {
    std::fill(score_S.begin(), score_S.end(), 0.0f);
  }
};

}  // namespace

std::unique_ptr<Policy> full_policy() { return std::make_unique<Full>(); }

}  // namespace quire::cache

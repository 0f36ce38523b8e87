#include <algorithm>

#include "quire/cache/policies/policies.h"

namespace quire::cache {
namespace {

class Oracle : public Policy {
 public:
  std::string_view name() const override { return "oracle"; }
  Decide decide() const override { return Decide::kEachStep; }
  Observe observe() const override { return {.query_mass = true}; }
  void score(const HeadContext& head, std::span<float> score_S) const override {
    std::copy(head.query_mass_S.begin(), head.query_mass_S.end(), score_S.begin());
  }
};

}  // namespace

std::unique_ptr<Policy> oracle_policy() { return std::make_unique<Oracle>(); }

}  // namespace quire::cache

#include <algorithm>

#include "quire/base/error.h"
#include "quire/cache/policies/policies.h"

namespace quire::cache {
namespace {

class H2o : public Policy {
 public:
  explicit H2o(const H2oParameters& parameters) : p_(parameters) {
    QUIRE_CHECK(p_.recent >= 0 && p_.recent <= 1, "h2o: ", p_.recent, " of the budget is recent");
  }
  std::string_view name() const override { return "h2o"; }
  Observe observe() const override { return {.reading_mass = true}; }
  std::int64_t floor_tokens() const override { return 2; }
  void score(const HeadContext& head, std::span<float> score_S) const override {
    std::copy(head.reading_mass_S.begin(), head.reading_mass_S.end(), score_S.begin());
  }
  std::vector<std::int32_t> select(const HeadContext& head,
                                   std::span<const float> score_S) const override {
    const double recent = p_.recent * static_cast<double>(head.budget);
    return best_positions(score_S, head.budget, 0, static_cast<std::int64_t>(recent));
  }

 private:
  H2oParameters p_;
};

}  // namespace

std::unique_ptr<Policy> h2o_policy(const H2oParameters& parameters) {
  return std::make_unique<H2o>(parameters);
}

}  // namespace quire::cache

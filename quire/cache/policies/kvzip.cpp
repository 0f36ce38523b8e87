#include <algorithm>

#include "quire/base/error.h"
#include "quire/cache/policies/policies.h"

namespace quire::cache {
namespace {

class KvZip : public Policy {
 public:
  explicit KvZip(const KvZipParameters& parameters) : p_(parameters) {
    QUIRE_CHECK(p_.sinks >= 0 && p_.recent >= 0 && p_.recent <= 1 && p_.piece >= 1,
                "kvzip: ", p_.sinks, " sinks, ", p_.recent, " of the budget recent, pieces of ",
                p_.piece);
  }
  std::string_view name() const override { return "kvzip"; }
  Observe observe() const override { return {.reread = p_.piece}; }
  std::int64_t floor_tokens() const override { return p_.sinks + 2; }
  void score(const HeadContext& head, std::span<float> score_S) const override {
    std::copy(head.reread_peak_S.begin(), head.reread_peak_S.end(), score_S.begin());
  }
  std::vector<std::int32_t> select(const HeadContext& head,
                                   std::span<const float> score_S) const override {
    const double recent = p_.recent * static_cast<double>(head.budget);
    return best_positions(score_S, head.budget, p_.sinks, static_cast<std::int64_t>(recent));
  }

 private:
  KvZipParameters p_;
};

}  // namespace

std::unique_ptr<Policy> kvzip_policy(const KvZipParameters& parameters) {
  return std::make_unique<KvZip>(parameters);
}

}  // namespace quire::cache

#include "quire/cache/policies/clustered.h"
#include "quire/cache/policies/policies.h"

namespace quire::cache {
namespace {

class Multipole : public Clustered {
 public:
  explicit Multipole(const MultipoleParameters& p)
      : Clustered({p.sinks,
                   p.recent,
                   {.segment = p.segment, .tokens_per_cluster = p.tokens_per_cluster},
                   1,
                   true,
                   0}) {}
  std::string_view name() const override { return "multipole"; }
};

}  // namespace

std::unique_ptr<Policy> multipole_policy(const MultipoleParameters& parameters) {
  return std::make_unique<Multipole>(parameters);
}

}  // namespace quire::cache

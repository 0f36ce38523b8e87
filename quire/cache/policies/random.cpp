#include "quire/cache/policies/policies.h"
#include "quire/tensor/rng.h"

namespace quire::cache {
namespace {

class Random : public Policy {
 public:
  explicit Random(const RandomParameters& parameters) : p_(parameters) {}
  std::string_view name() const override { return "random"; }
  void score(const HeadContext& head, std::span<float> score_S) const override {
    const auto stream = static_cast<std::uint64_t>(head.layer * head.spec->G + head.g);
    Rng rng(p_.seed ^ (stream + 1) << 32);
    for (float& x : score_S) x = static_cast<float>(rng.uniform());
  }

 private:
  RandomParameters p_;
};

}  // namespace

std::unique_ptr<Policy> random_policy(const RandomParameters& parameters) {
  return std::make_unique<Random>(parameters);
}

}  // namespace quire::cache

#include "quire/base/error.h"
#include "quire/cache/policies/policies.h"

namespace quire::cache {
namespace {

class Window : public Policy {
 public:
  explicit Window(const WindowParameters& parameters) : p_(parameters) {
    QUIRE_CHECK(p_.sinks >= 0, "window: ", p_.sinks, " sinks");
  }
  std::string_view name() const override { return "window"; }
  std::int64_t sinks() const override { return p_.sinks; }
  void score(const HeadContext& /*head*/, std::span<float> score_S) const override {
    for (std::size_t s = 0; s < score_S.size(); ++s) score_S[s] = static_cast<float>(s);
  }

 private:
  WindowParameters p_;
};

}  // namespace

std::unique_ptr<Policy> window_policy(const WindowParameters& parameters) {
  return std::make_unique<Window>(parameters);
}

}  // namespace quire::cache

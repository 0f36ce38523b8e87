#include "quire/ops/sample/sample.h"

#include <cmath>
#include <limits>

#include "quire/base/error.h"
#include "quire/ops/sample/sample_kernel.h"

namespace quire {

void check(const SampleSpec& spec) {
  QUIRE_CHECK(std::isfinite(spec.temperature) && spec.temperature >= 0, "temperature is ",
              spec.temperature, "; it must be finite and at least 0");
  QUIRE_CHECK(spec.top_k >= 0, "top_k is ", spec.top_k, "; it must be at least 0");
  QUIRE_CHECK(spec.top_p > 0 && spec.top_p <= 1, "top_p is ", spec.top_p,
              "; it must be over 0 and at most 1");
  QUIRE_CHECK(spec.min_p >= 0 && spec.min_p <= 1, "min_p is ", spec.min_p,
              "; it must be from 0 to 1");
  QUIRE_CHECK(std::isfinite(spec.repeat_penalty) && spec.repeat_penalty > 0, "repeat_penalty is ",
              spec.repeat_penalty, "; it must be finite and over 0");
}

std::int32_t sample(std::span<const float> logits, const SampleSpec& spec,
                    std::span<const std::int32_t> recent, Rng& rng) {
  check(spec);
  QUIRE_CHECK(!logits.empty() && logits.size() <= std::numeric_limits<std::int32_t>::max(),
              "logits has V = ", std::uint64_t{logits.size()}, ", expected 1 to 2^31 - 1");
  const auto V = static_cast<std::int64_t>(logits.size());
  for (const std::int32_t id : recent) {
    QUIRE_CHECK(id >= 0 && id < V, "recent holds ", id, ", but logits has V = ", V);
  }
  const std::int32_t id = kernel::sample_cpu({.logits_V = logits.data(),
                                              .V = V,
                                              .recent_N = recent.data(),
                                              .N = static_cast<std::int64_t>(recent.size()),
                                              .temperature = spec.temperature,
                                              .top_p = spec.top_p,
                                              .min_p = spec.min_p,
                                              .repeat_penalty = spec.repeat_penalty,
                                              .top_k = spec.top_k,
                                              .uniform = spec.temperature > 0 ? rng.uniform() : 0});
  QUIRE_CHECK(id != kernel::kNotANumber, "logits hold a NaN");
  QUIRE_CHECK(id != kernel::kInfinite, "logits hold an infinity");
  QUIRE_CHECK(id != kernel::kNothingFinite, "logits hold no finite value");
  return id;
}

}  // namespace quire

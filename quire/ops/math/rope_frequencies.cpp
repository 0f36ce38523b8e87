#include <algorithm>
#include <cmath>
#include <numbers>

#include "quire/base/error.h"
#include "quire/ops/math/rope.h"

namespace quire {
namespace {

void check_positive(double value, const char* name) {
  QUIRE_CHECK(std::isfinite(value) && value > 0, "rope: ", name, " is ", value,
              ", expected a finite number over 0");
}

void check(const RopeSpec& spec) {
  QUIRE_CHECK(spec.rotary >= 0 && spec.rotary % 2 == 0 && spec.rotary <= (1 << 20),
              "rope: rotary is ", spec.rotary, ", expected an even number from 0 to 2^20");
  QUIRE_CHECK(std::isfinite(spec.theta) && spec.theta > 1, "rope: theta is ", spec.theta,
              ", expected a finite number over 1");
  const std::size_t pairs = static_cast<std::size_t>(spec.rotary / 2);
  QUIRE_CHECK(spec.factors.empty() || spec.factors.size() == pairs,
              "rope: ", std::uint64_t{spec.factors.size()}, " factors for ", std::uint64_t{pairs},
              " pairs");
  for (const float factor : spec.factors) check_positive(double{factor}, "a factor of a pair");
  if (spec.scaling != RopeScaling::kNone) check_positive(spec.factor, "factor");
  if (spec.scaling == RopeScaling::kYarn) {
    check_positive(spec.original_context, "original_context");
    check_positive(spec.beta_fast, "beta_fast");
    check_positive(spec.beta_slow, "beta_slow");
    QUIRE_CHECK(spec.beta_slow <= spec.beta_fast, "rope: beta_slow is ", spec.beta_slow,
                ", over beta_fast, which is ", spec.beta_fast);
    QUIRE_CHECK(std::isfinite(spec.attention_factor) && spec.attention_factor >= 0,
                "rope: attention_factor is ", spec.attention_factor, ", expected at least 0");
  }
  if (spec.scaling == RopeScaling::kLlama3) {
    check_positive(spec.original_context, "original_context");
    check_positive(spec.low_frequency_factor, "low_frequency_factor");
    check_positive(spec.high_frequency_factor, "high_frequency_factor");
    QUIRE_CHECK(spec.low_frequency_factor < spec.high_frequency_factor,
                "rope: low_frequency_factor is ", spec.low_frequency_factor,
                ", not below high_frequency_factor, which is ", spec.high_frequency_factor);
  }
}

/// How far pair i is divided, from 0 (kept) to 1 (divided by the factor).
class YarnRamp {
 public:
  explicit YarnRamp(const RopeSpec& spec) {
    low_ = pair_that_turns(spec.beta_fast, spec);
    high_ = pair_that_turns(spec.beta_slow, spec);
    if (spec.truncate) {
      low_ = std::floor(low_);
      high_ = std::ceil(high_);
    }
    low_ = std::max(low_, 0.0);
    high_ = std::min(high_, static_cast<double>(spec.rotary - 1));
    if (low_ == high_) high_ += 0.001;  // a step; the published code's guard against 0/0
  }
  double operator()(double i) const { return std::clamp((i - low_) / (high_ - low_), 0.0, 1.0); }

 private:
  // The (fractional) pair that turns this often within the original context.
  static double pair_that_turns(double turns, const RopeSpec& spec) {
    return static_cast<double>(spec.rotary) *
           std::log(spec.original_context / (turns * 2 * std::numbers::pi)) /
           (2 * std::log(spec.theta));
  }
  double low_, high_;
};

// Divides by 1 for short wavelengths, by the factor for long ones, and blends between.
double llama3_frequency(double frequency, const RopeSpec& spec) {
  const double turns = spec.original_context * frequency / (2 * std::numbers::pi);
  const double kept = std::clamp((turns - spec.low_frequency_factor) /
                                     (spec.high_frequency_factor - spec.low_frequency_factor),
                                 0.0, 1.0);
  return (1 - kept) * frequency / spec.factor + kept * frequency;
}

}  // namespace

double yarn_attention_factor(double factor) {
  return factor <= 1 ? 1.0 : 0.1 * std::log(factor) + 1.0;
}

std::vector<double> rope_frequencies(const RopeSpec& spec) {
  check(spec);
  std::vector<double> frequencies(static_cast<std::size_t>(spec.rotary / 2));
  if (frequencies.empty()) return frequencies;
  const YarnRamp ramp(spec);
  for (std::size_t i = 0; i < frequencies.size(); ++i) {
    const double exponent = 2 * static_cast<double>(i) / static_cast<double>(spec.rotary);
    double frequency = std::pow(spec.theta, -exponent);
    if (!spec.factors.empty()) frequency /= double{spec.factors[i]};
    switch (spec.scaling) {
      case RopeScaling::kNone:
        break;
      case RopeScaling::kLinear:
        frequency /= spec.factor;
        break;
      case RopeScaling::kYarn: {
        const double divided = ramp(static_cast<double>(i));
        frequency = frequency / spec.factor * divided + frequency * (1 - divided);
        break;
      }
      case RopeScaling::kLlama3:
        frequency = llama3_frequency(frequency, spec);
        break;
    }
    frequencies[i] = frequency;
  }
  return frequencies;
}

}  // namespace quire

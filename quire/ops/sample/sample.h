#pragma once

#include <cstdint>
#include <span>

#include "quire/tensor/rng.h"

namespace quire {

/// How the next token is drawn: penalty, then temperature, then top-k, top-p and min-p, in this
/// order, then one draw. Each filter sees the probabilities that the one before it left,
/// renormalised.
struct SampleSpec {
  /// Finite, >= 0; 0: greedy (ties to the lowest id), the filters then change nothing.
  double temperature = 0;
  std::int64_t top_k = 0;  // >= 0; keeps the k likeliest; 0: off
  double top_p = 1;  // in (0, 1]; keeps the fewest likeliest that hold this much together; 1: off
  double min_p = 0;  // in [0, 1]; keeps what is at least this share of the likeliest; 0: off
  /// > 0; divides positive, multiplies negative logits of `recent`; 1: off.
  double repeat_penalty = 1;
};

/// Throws ArgumentError for a value out of range, naming the field.
void check(const SampleSpec& spec);

/// The id drawn from the distribution that the logits and the spec make.
///
/// logits   [V], V at least 1; -inf is a token that is never drawn; of equally likely ones the
///          lowest id comes first
/// recent   ids whose logits are penalised, each once however often it occurs; all in [0, V)
/// rng      one uniform() is taken when temperature > 0, none when greedy
/// returns  in [0, V)
///
/// Throws  ArgumentError for an empty range, a spec that `check` refuses, an id outside [0, V), and
///         logits that hold a NaN, +inf, or no finite value.
/// Order   probabilities are f32 (relative error below 1e-5), sums of them f64 in a fixed order:
///         the same bits on every processor.
/// Memory  12 · V bytes, kept by the thread, and what the filters keep.
/// Source  Holtzman et al. 2019 (top-p); Nguyen et al. 2024 (min-p); Keskar et al. 2019 (penalty).
std::int32_t sample(std::span<const float> logits, const SampleSpec& spec,
                    std::span<const std::int32_t> recent, Rng& rng);

}  // namespace quire

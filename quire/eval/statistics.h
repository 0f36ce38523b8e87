#pragma once

#include <cstdint>
#include <span>
#include <vector>

namespace quire::eval {

/// How one prediction of the next token differs from that of the full cache.
struct Divergence {
  double kl = 0;        // KL(full ‖ other), nats
  double nll_full = 0;  // −log of the probability of the token that came, by each
  double nll = 0;
  bool same_top = false;  // whether both find the same token likeliest (of equal ones the first)
};

/// Compares two rows of V logits; `target` is the token that came. Equal bits give kl = 0 exactly.
/// Sums are doubles, added in the order of ids. Throws ArgumentError for a target outside [0, V)
/// and rows of different or no size.
Divergence divergence(std::span<const float> full_V, std::span<const float> other_V,
                      std::int32_t target);

/// The arithmetic mean; NaN of nothing.
double mean(std::span<const double> values);

/// The value below which the part p of the values lies, linear between neighbours, as
/// numpy.quantile() does it; NaN of nothing. Throws ArgumentError for p outside [0, 1].
double quantile(std::span<const double> values, double p);

/// Both ends of an interval.
struct Interval {
  double low = 0, high = 0;
};

/// How a bootstrap is drawn.
struct BootstrapSpec {
  std::int64_t resamples = 2000;
  double confidence = 0.95;
  std::uint64_t seed = 0;
};

/// The percentile interval of the mean of a series by the circular block bootstrap: each resample
/// is made of runs of bootstrap_block(n) neighbours, because the difficulty of a text comes in
/// stretches, and single positions drawn alone would promise too narrow an interval. Differences of
/// two series that were taken at the same positions make it a paired one. The same values and spec
/// give the same interval. Throws ArgumentError for a spec out of range; NaN for no values.
/// Source  Politis and Romano 1992; Hall, Horowitz and Jing 1995 (blocks grow as n^(1/3)).
Interval bootstrap_mean(std::span<const double> values, const BootstrapSpec& spec = {});

/// ⌈n^(1/3)⌉, the length of a block of n >= 1 values.
std::int64_t bootstrap_block(std::int64_t n);

/// a[i] − b[i]. Throws ArgumentError for different sizes.
std::vector<double> difference(std::span<const double> a, std::span<const double> b);

/// The places of the largest tenth of the values (at least one), ascending; of equal values the
/// earlier.
std::vector<std::size_t> largest_tenth(std::span<const double> values);

}  // namespace quire::eval

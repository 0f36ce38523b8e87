#include "quire/eval/statistics.h"

#include <algorithm>
#include <cmath>
#include <limits>
#include <numeric>

#include "quire/base/error.h"
#include "quire/tensor/rng.h"

namespace quire::eval {
namespace {

constexpr double kNone = std::numeric_limits<double>::quiet_NaN();

std::int64_t size_of(std::span<const double> values) {
  return static_cast<std::int64_t>(values.size());
}

double log_sum_exp(std::span<const float> logits_V) {
  const double largest = *std::max_element(logits_V.begin(), logits_V.end());
  double sum = 0;
  for (const float logit : logits_V) sum += std::exp(double{logit} - largest);
  return std::log(sum) + largest;
}

/// Of values in ascending order.
double sorted_quantile(std::span<const double> sorted, double p) {
  const double place = p * static_cast<double>(sorted.size() - 1);
  const auto below = static_cast<std::size_t>(place);
  const std::size_t above = std::min(below + 1, sorted.size() - 1);
  return sorted[below] + (sorted[above] - sorted[below]) * (place - static_cast<double>(below));
}

}  // namespace

Divergence divergence(std::span<const float> full_V, std::span<const float> other_V,
                      std::int32_t target) {
  QUIRE_CHECK(!full_V.empty() && full_V.size() == other_V.size(), "full_V has ",
              static_cast<std::int64_t>(full_V.size()), " logits, but other_V has ",
              static_cast<std::int64_t>(other_V.size()));
  QUIRE_CHECK(target >= 0 && static_cast<std::size_t>(target) < full_V.size(), "target is ", target,
              ", but there are ", static_cast<std::int64_t>(full_V.size()), " logits");
  const double full_sum = log_sum_exp(full_V), other_sum = log_sum_exp(other_V);
  Divergence out;
  for (std::size_t v = 0; v < full_V.size(); ++v) {
    const double log_p = double{full_V[v]} - full_sum;
    out.kl += std::exp(log_p) * (log_p - (double{other_V[v]} - other_sum));
  }
  const auto at = static_cast<std::size_t>(target);
  out.nll_full = full_sum - double{full_V[at]};
  out.nll = other_sum - double{other_V[at]};
  out.same_top = std::max_element(full_V.begin(), full_V.end()) - full_V.begin() ==
                 std::max_element(other_V.begin(), other_V.end()) - other_V.begin();
  return out;
}

double mean(std::span<const double> values) {
  if (values.empty()) return kNone;
  return std::accumulate(values.begin(), values.end(), 0.0) / static_cast<double>(values.size());
}

double quantile(std::span<const double> values, double p) {
  QUIRE_CHECK(p >= 0 && p <= 1, "p is ", p, "; it must be from 0 to 1");
  if (values.empty()) return kNone;
  std::vector<double> sorted(values.begin(), values.end());
  std::sort(sorted.begin(), sorted.end());
  return sorted_quantile(sorted, p);
}

std::int64_t bootstrap_block(std::int64_t n) {
  std::int64_t block = 1;
  while (block * block * block < n) ++block;
  return block;
}

Interval bootstrap_mean(std::span<const double> values, const BootstrapSpec& spec) {
  QUIRE_CHECK(spec.resamples >= 1 && spec.resamples <= 10'000'000, "resamples is ", spec.resamples,
              "; it must be from 1 to 10000000");
  QUIRE_CHECK(spec.confidence > 0 && spec.confidence < 1, "confidence is ", spec.confidence,
              "; it must lie between 0 and 1");
  if (values.empty()) return {kNone, kNone};
  const std::int64_t n = size_of(values), block = bootstrap_block(n);
  // Sums of everything before a place, over two rounds of the circle: a run is one difference.
  std::vector<double> before(2 * values.size() + 1, 0.0);
  for (std::size_t i = 0; i < 2 * values.size(); ++i)
    before[i + 1] = before[i] + values[i % values.size()];
  Rng rng(spec.seed);
  std::vector<double> means(static_cast<std::size_t>(spec.resamples));
  for (double& out : means) {
    double sum = 0;
    for (std::int64_t drawn = 0; drawn < n; drawn += block) {
      const auto begin = static_cast<std::size_t>(rng.below(static_cast<std::uint64_t>(n)));
      const auto end = begin + static_cast<std::size_t>(std::min(block, n - drawn));
      sum += before[end] - before[begin];
    }
    out = sum / static_cast<double>(n);
  }
  std::sort(means.begin(), means.end());
  const double tail = (1 - spec.confidence) / 2;
  return {sorted_quantile(means, tail), sorted_quantile(means, 1 - tail)};
}

std::vector<double> difference(std::span<const double> a, std::span<const double> b) {
  QUIRE_CHECK(a.size() == b.size(), "a has ", size_of(a), " values, but b has ", size_of(b));
  std::vector<double> out(a.size());
  for (std::size_t i = 0; i < a.size(); ++i) out[i] = a[i] - b[i];
  return out;
}

std::vector<std::size_t> largest_tenth(std::span<const double> values) {
  std::vector<std::size_t> places(values.size());
  std::iota(places.begin(), places.end(), std::size_t{0});
  std::stable_sort(places.begin(), places.end(),
                   [&](std::size_t a, std::size_t b) { return values[a] > values[b]; });
  places.resize((values.size() + 9) / 10);
  std::sort(places.begin(), places.end());
  return places;
}

}  // namespace quire::eval

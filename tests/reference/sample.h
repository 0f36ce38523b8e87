#pragma once

#include <algorithm>
#include <cmath>
#include <cstdint>
#include <limits>
#include <numeric>
#include <vector>

namespace ref {

/// The probabilities that the filters leave, all of them sorted at every step, in double.
inline std::vector<double> filtered(std::vector<float> logits, double temperature,
                                    std::int64_t top_k, double top_p, double min_p) {
  const std::size_t V = logits.size();
  std::vector<std::size_t> order(V);
  std::iota(order.begin(), order.end(), std::size_t{0});
  std::stable_sort(order.begin(), order.end(),
                   [&](std::size_t a, std::size_t b) { return logits[a] > logits[b]; });
  const double top = double{logits[order[0]]};
  std::vector<double> p(V);
  for (std::size_t i = 0; i < V; ++i) p[i] = std::exp((double{logits[i]} - top) / temperature);
  const auto renormalise = [&] {
    const double total = std::accumulate(p.begin(), p.end(), 0.0);
    for (double& x : p) x /= total;
  };
  renormalise();
  if (top_k > 0) {
    for (std::size_t rank = static_cast<std::size_t>(top_k); rank < V; ++rank) p[order[rank]] = 0;
    renormalise();
  }
  if (top_p < 1) {
    double held = 0;
    for (const std::size_t i : order) {
      const double own = p[i];
      if (held >= top_p) p[i] = 0;
      held += own;
    }
    renormalise();
  }
  if (min_p > 0) {
    const double least = min_p * *std::max_element(p.begin(), p.end());
    for (double& x : p) x = x < least ? 0 : x;
    renormalise();
  }
  return p;
}

/// The first id, upwards, at which the sum of probabilities exceeds `uniform`.
inline std::int32_t draw(const std::vector<double>& p, double uniform) {
  double passed = 0;
  for (std::size_t i = 0; i < p.size(); ++i) {
    passed += p[i];
    if (passed > uniform) return static_cast<std::int32_t>(i);
  }
  return -1;
}

}  // namespace ref

#pragma once

#include <algorithm>
#include <cmath>
#include <cstddef>
#include <cstdint>
#include <numeric>
#include <vector>

// Clustering, estimates and selection as the definitions say, one head at a time.

namespace ref {

/// Spherical k-means of n keys less their mean; centroids start at keys of uniform stride, and one
/// that nobody chose stays.
inline std::vector<std::int64_t> spherical_k_means(const std::vector<double>& keys, std::size_t K,
                                                   std::size_t M, int iterations) {
  const std::size_t n = keys.size() / K;
  std::vector<double> x = keys, mean(K), centroid(M * K);
  for (std::size_t i = 0; i < x.size(); ++i) mean[i % K] += x[i] / static_cast<double>(n);
  const auto make_unit = [&](double* row) {
    double square = 0;
    for (std::size_t k = 0; k < K; ++k) square += row[k] * row[k];
    for (std::size_t k = 0; k < K && square > 0; ++k) row[k] /= std::sqrt(square);
  };
  for (std::size_t i = 0; i < x.size(); ++i) x[i] -= mean[i % K];
  for (std::size_t i = 0; i < n; ++i) make_unit(&x[i * K]);
  for (std::size_t m = 0; m < M; ++m)
    std::copy_n(x.begin() + static_cast<std::ptrdiff_t>(m * n / M * K), K,
                centroid.begin() + static_cast<std::ptrdiff_t>(m * K));
  std::vector<std::int64_t> group(n);
  for (int iteration = 0; iteration < iterations; ++iteration) {
    for (std::size_t i = 0; i < n; ++i) {
      double best = -2;
      for (std::size_t m = 0; m < M; ++m) {
        double dot = 0;
        for (std::size_t k = 0; k < K; ++k) dot += x[i * K + k] * centroid[m * K + k];
        if (dot > best) best = dot, group[i] = static_cast<std::int64_t>(m);
      }
    }
    if (iteration + 1 == iterations) break;
    std::vector<double> sum(M * K);
    std::vector<int> chosen(M);
    for (std::size_t i = 0; i < n; ++i) {
      const auto m = static_cast<std::size_t>(group[i]);
      chosen[m] = 1;
      for (std::size_t k = 0; k < K; ++k) sum[m * K + k] += x[i * K + k];
    }
    for (std::size_t m = 0; m < M; ++m) {
      make_unit(&sum[m * K]);
      for (std::size_t k = 0; k < K && chosen[m] != 0; ++k) centroid[m * K + k] = sum[m * K + k];
    }
  }
  return group;
}

/// Σ over keys of the squared distance of their direction (less the mean) from their group's mean
/// direction: what the clustering makes small.
inline double spread(const std::vector<double>& keys, std::size_t K,
                     const std::vector<std::int64_t>& group, std::size_t M) {
  const std::size_t n = keys.size() / K;
  std::vector<double> x = keys, mean(K), sum(M * K), count(M);
  for (std::size_t i = 0; i < x.size(); ++i) mean[i % K] += x[i] / static_cast<double>(n);
  for (std::size_t i = 0; i < n; ++i) {
    double square = 0;
    for (std::size_t k = 0; k < K; ++k) {
      x[i * K + k] -= mean[k];
      square += x[i * K + k] * x[i * K + k];
    }
    const auto m = static_cast<std::size_t>(group[i]);
    count[m] += 1;
    for (std::size_t k = 0; k < K; ++k) {
      x[i * K + k] /= std::sqrt(square);
      sum[m * K + k] += x[i * K + k];
    }
  }
  double out = 0;
  for (std::size_t i = 0; i < n; ++i) {
    const auto m = static_cast<std::size_t>(group[i]);
    for (std::size_t k = 0; k < K; ++k) {
      const double off = x[i * K + k] - sum[m * K + k] / count[m];
      out += off * off;
    }
  }
  return out;
}

/// Clusters by rank until the first that does not fit.
inline std::vector<std::uint8_t> select(const std::vector<float>& rank,
                                        const std::vector<std::int64_t>& size,
                                        std::int64_t budget) {
  std::vector<std::size_t> order;
  for (std::size_t m = 0; m < rank.size(); ++m)
    if (size[m] > 0) order.push_back(m);
  std::stable_sort(order.begin(), order.end(),
                   [&](std::size_t a, std::size_t b) { return rank[a] > rank[b]; });
  std::vector<std::uint8_t> out(rank.size());
  for (const std::size_t m : order) {
    budget -= size[m];
    if (budget < 0) break;
    out[m] = 1;
  }
  return out;
}

}  // namespace ref

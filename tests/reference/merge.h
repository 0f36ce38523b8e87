#pragma once

#include <cmath>
#include <complex>
#include <cstddef>
#include <cstdint>
#include <limits>
#include <vector>

// Grouping and merging of keys as the definitions say, one head at a time, on row-major arrays.

namespace ref {

inline double real_part(double x) { return x; }
inline double real_part(float x) { return static_cast<double>(x); }
inline double real_part(std::complex<double> x) { return x.real(); }

struct Nearest {
  std::vector<std::int64_t> group;
  std::vector<double> cosine;
};

/// S keys to the most similar of M anchors; of equal ones the first.
template <class T>
Nearest nearest_anchor(const std::vector<T>& k, const std::vector<T>& anchors, std::size_t K) {
  Nearest out;
  for (std::size_t s = 0; s < k.size() / K; ++s) {
    double best = -2;
    std::int64_t group = 0;
    for (std::size_t m = 0; m < anchors.size() / K; ++m) {
      T dot = 0, kk = 0, aa = 0;
      for (std::size_t i = 0; i < K; ++i) {
        const T x = k[s * K + i], y = anchors[m * K + i];
        dot += x * y;
        kk += x * x;
        aa += y * y;
      }
      const double length = std::sqrt(static_cast<double>(kk) * static_cast<double>(aa));
      const double cosine = length == 0 ? 0 : static_cast<double>(dot) / length;
      if (cosine > best) best = cosine, group = static_cast<std::int64_t>(m);
    }
    out.group.push_back(group);
    out.cosine.push_back(best);
  }
  return out;
}

template <class T>
struct Groups {
  std::vector<T> k, v, weight, count, bias;
};

/// The mass-carrying mean; members in order. `weight` may hold e^(cosine / τ).
template <class T>
Groups<T> group_mean(const std::vector<T>& k, const std::vector<T>& v,
                     const std::vector<std::int64_t>& group, const std::vector<T>& weight,
                     const std::vector<T>& count, std::size_t M) {
  const std::size_t S = group.size(), K = k.size() / S, U = v.size() / S;
  Groups<T> out{std::vector<T>(M * K), std::vector<T>(M * U), std::vector<T>(M), std::vector<T>(M),
                std::vector<T>(M)};
  for (std::size_t s = 0; s < S; ++s) {
    if (group[s] < 0) continue;
    const auto m = static_cast<std::size_t>(group[s]);
    out.weight[m] += weight[s];
    out.count[m] += count[s];
  }
  for (std::size_t s = 0; s < S; ++s) {
    if (group[s] < 0) continue;
    const auto m = static_cast<std::size_t>(group[s]);
    const T share = weight[s] / out.weight[m];
    for (std::size_t i = 0; i < K; ++i) out.k[m * K + i] += share * k[s * K + i];
    for (std::size_t i = 0; i < U; ++i) out.v[m * U + i] += share * v[s * U + i];
  }
  for (std::size_t m = 0; m < M; ++m)
    out.bias[m] = real_part(out.count[m]) == 0 ? T(-std::numeric_limits<double>::infinity())
                                               : T(std::log(out.count[m]));
  return out;
}

struct Match {
  std::int64_t partner;
  double cosine;
};

/// The most similar even key within the window for each odd one, without choosing among pairs.
template <class T>
std::vector<Match> match_neighbours(const std::vector<T>& k, std::size_t K,
                                    const std::vector<std::int64_t>& position, std::int64_t window,
                                    const std::vector<std::uint8_t>& excluded) {
  const std::size_t S = k.size() / K;
  std::vector<Match> out(S, {-1, 1});
  for (std::size_t s = 1; s < S; s += 2) {
    if (excluded[s] != 0) continue;
    Match best{-1, -2};
    for (std::size_t e = 0; e < S; e += 2) {
      if (excluded[e] != 0 || std::abs(position[s] - position[e]) > window) continue;
      double dot = 0, ss = 0, ee = 0;
      for (std::size_t i = 0; i < K; ++i) {
        const double x = static_cast<double>(k[s * K + i]), y = static_cast<double>(k[e * K + i]);
        dot += x * y;
        ss += x * x;
        ee += y * y;
      }
      const double cosine = dot / std::sqrt(ss * ee);
      if (cosine > best.cosine) best = {static_cast<std::int64_t>(e), cosine};
    }
    out[s] = best;
  }
  return out;
}

}  // namespace ref

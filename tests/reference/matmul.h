#pragma once

// Weight blocks, products and the rounding of inputs as plain loops.

#include <algorithm>
#include <cmath>
#include <cstddef>
#include <cstdint>
#include <vector>

namespace ref {

/// out[n, m] = Σ_d x[n, d] · w[m, d], one chain per output: double is the truth, float the
/// yardstick.
template <class T>
std::vector<T> matmul(const std::vector<float>& x_ND, const std::vector<float>& w_MD, std::size_t N,
                      std::size_t M, std::size_t D) {
  std::vector<T> out(N * M, T{0});
  for (std::size_t n = 0; n < N; ++n)
    for (std::size_t m = 0; m < M; ++m)
      for (std::size_t d = 0; d < D; ++d)
        out[n * M + m] += static_cast<T>(x_ND[n * D + d]) * static_cast<T>(w_MD[m * D + d]);
  return out;
}

/// Weights in groups of 32 integers: w[m, d] = scale[m, d / 32] · q[m, d] + minimum[m, d / 32].
struct IntegerWeight {
  std::vector<int> q;
  std::vector<float> scale, minimum;
};

/// One row of inputs in groups of 32: x[d] ≈ scale[d / 32] · q[d].
struct RoundedRow {
  std::vector<int> q;
  std::vector<float> scale;
};

/// Whether x − q · scale rounds once, or after the product too (instruction sets without FMA).
enum class Rest { kFused, kTwoSteps };

/// Rounds to int8 by the largest magnitude of each group; `rest` is what it leaves over.
inline RoundedRow round_row(const std::vector<float>& x, Rest how, std::vector<float>& rest) {
  RoundedRow row;
  rest = x;
  for (std::size_t g = 0; g < x.size() / 32; ++g) {
    float largest = 0;
    for (std::size_t i = 32 * g; i < 32 * g + 32; ++i) largest = std::max(largest, std::abs(x[i]));
    row.scale.push_back(largest / 127.0f);
    for (std::size_t i = 32 * g; i < 32 * g + 32; ++i) {
      const float scaled = largest > 0 ? x[i] * (127.0f / largest) : 0.0f;
      row.q.push_back(static_cast<int>(std::nearbyint(scaled)));
      const auto q = static_cast<float>(row.q.back());
      const float product = q * row.scale.back();
      rest[i] = how == Rest::kFused ? std::fma(q, -row.scale.back(), x[i]) : x[i] - product;
    }
  }
  return row;
}

/// The product of `terms` rounded terms of x with an integer weight: exact integers in each group,
/// then scale and minimum in T.
template <class T>
std::vector<T> rounded_matmul(const std::vector<float>& x_ND, const IntegerWeight& w, std::size_t N,
                              std::size_t M, std::size_t D, int terms, Rest how) {
  std::vector<T> out;
  const std::size_t groups = D / 32;
  for (std::size_t n = 0; n < N; ++n) {
    const auto begin = x_ND.begin() + static_cast<std::ptrdiff_t>(n * D);
    std::vector<float> x(begin, begin + static_cast<std::ptrdiff_t>(D));
    std::vector<RoundedRow> rounded;
    for (int term = 0; term < terms; ++term) {
      std::vector<float> rest;
      rounded.push_back(round_row(x, how, rest));
      x = rest;
    }
    for (std::size_t m = 0; m < M; ++m) {
      T total = 0;
      for (const RoundedRow& row : rounded) {
        T sum = 0;
        for (std::size_t g = 0; g < groups; ++g) {
          std::int64_t dot = 0, inputs = 0;
          for (std::size_t i = 32 * g; i < 32 * g + 32; ++i) {
            dot += std::int64_t{row.q[i]} * w.q[m * D + i];
            inputs += row.q[i];
          }
          const T scale = static_cast<T>(row.scale[g]);
          sum += static_cast<T>(dot) * (static_cast<T>(w.scale[m * groups + g]) * scale);
          sum += static_cast<T>(w.minimum[m * groups + g]) * (scale * static_cast<T>(inputs));
        }
        total += sum;
      }
      out.push_back(total);
    }
  }
  return out;
}

}  // namespace ref

#pragma once

#include <cstddef>
#include <cstdint>
#include <cstring>
#include <span>
#include <vector>

#include "quire/ops/matmul/weight.h"
#include "quire/tensor/rng.h"

namespace quire::test {

/// A weight in f32 and the numbers that it was made of.
struct PlainWeight {
  std::vector<float> numbers;  // [rows, columns]
  Weight weight;
};

inline PlainWeight plain_weight(Rng& rng, std::int64_t rows, std::int64_t columns) {
  PlainWeight out;
  for (std::int64_t i = 0; i < rows * columns; ++i) out.numbers.push_back(0.3f * rng.normal());
  out.weight =
      Weight::pack(WeightType::kF32, rows, columns,
                   [&](std::int64_t first, std::int64_t, std::span<std::byte> to) {
                     std::memcpy(to.data(), out.numbers.data() + first * columns, to.size());
                   });
  return out;
}

/// out[n, m] = Σ_d x[n, d] · w[m, d], in T throughout.
template <class T>
std::vector<T> product(const std::vector<T>& x_ND, const std::vector<float>& w_MD, std::size_t D) {
  const std::size_t N = x_ND.size() / D, M = w_MD.size() / D;
  std::vector<T> out(N * M, T{0});
  for (std::size_t n = 0; n < N; ++n)
    for (std::size_t m = 0; m < M; ++m)
      for (std::size_t d = 0; d < D; ++d)
        out[n * M + m] += x_ND[n * D + d] * static_cast<T>(w_MD[m * D + d]);
  return out;
}

/// Σ (x − truth)².
template <class T>
double squared_error(const T& x, const std::vector<double>& truth) {
  double sum = 0;
  for (std::size_t i = 0; i < truth.size(); ++i) {
    const double difference = static_cast<double>(x[i]) - truth[i];
    sum += difference * difference;
  }
  return sum;
}

}  // namespace quire::test

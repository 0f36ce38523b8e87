#pragma once

#include <cmath>
#include <complex>
#include <cstdint>
#include <vector>

namespace ref {

/// Turns the first 2·pairs numbers of one head. `mate(i)` and `first(i)` say where pair i lies.
template <class T>
void rope(std::vector<T>& head, const std::vector<double>& frequencies, std::int64_t position,
          double magnitude, bool interleaved) {
  const std::size_t pairs = frequencies.size();
  for (std::size_t i = 0; i < pairs; ++i) {
    const std::size_t a = interleaved ? 2 * i : i, b = interleaved ? 2 * i + 1 : i + pairs;
    // A naive program in T also has its angle in T.
    const T angle = static_cast<T>(static_cast<double>(position)) * static_cast<T>(frequencies[i]);
    const T cosine = static_cast<T>(magnitude) * std::cos(angle);
    const T sine = static_cast<T>(magnitude) * std::sin(angle);
    const T x = head[a], y = head[b];
    head[a] = x * cosine - y * sine;
    head[b] = x * sine + y * cosine;
  }
}

}  // namespace ref

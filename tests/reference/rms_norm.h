#pragma once

#include <cmath>
#include <complex>
#include <cstdint>
#include <vector>

namespace ref {

/// The naive loop: double is the truth, float the yardstick.
template <class T>
std::vector<T> rms_norm(const std::vector<T>& x_ND, const std::vector<T>& weight_D,
                        double epsilon) {
  const std::size_t D = weight_D.size();
  std::vector<T> out(x_ND.size());
  for (std::size_t n = 0; n * D < x_ND.size(); ++n) {
    T sum = 0;
    for (std::size_t d = 0; d < D; ++d) sum += x_ND[n * D + d] * x_ND[n * D + d];
    const T root =
        std::sqrt(sum / static_cast<T>(static_cast<double>(D)) + static_cast<T>(epsilon));
    for (std::size_t d = 0; d < D; ++d) out[n * D + d] = x_ND[n * D + d] / root * weight_D[d];
  }
  return out;
}

}  // namespace ref

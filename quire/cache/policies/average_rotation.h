#pragma once

#include <cstdint>
#include <span>
#include <vector>

#include "quire/ops/math/rope.h"

namespace quire::cache {

/// The rotation of RopeSpec averaged over positions first … first + count − 1: pair i becomes
///   a' = c·a − s·b      b' = s·a + c·b      c, s: the means of m·cos and m·sin, m as in RopeTable
class AverageRotation {
 public:
  AverageRotation(const RopeSpec& spec, std::int64_t K, std::int64_t first, std::int64_t count);

  /// R·x, x [K].
  std::vector<double> vector(std::span<const double> x) const;
  /// R·X·Rᵀ, X [K, K].
  std::vector<double> matrix(std::span<const double> x) const;

 private:
  void turn(double* x, std::int64_t step) const;

  std::int64_t K_;
  struct Pair {
    std::int64_t a, b;
    double cosine, sine;
  };
  std::vector<Pair> pairs_;
};

}  // namespace quire::cache

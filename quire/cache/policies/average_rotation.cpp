#include "quire/cache/policies/average_rotation.h"

#include <cmath>

namespace quire::cache {

AverageRotation::AverageRotation(const RopeSpec& spec, std::int64_t K, std::int64_t first,
                                 std::int64_t count)
    : K_(K) {
  if (spec.rotary == 0) return;
  const std::vector<double> frequency = rope_frequencies(spec);
  const auto half = static_cast<std::int64_t>(frequency.size());
  double length = 1;
  if (spec.scaling == RopeScaling::kYarn)
    length =
        spec.attention_factor != 0 ? spec.attention_factor : yarn_attention_factor(spec.factor);
  for (std::int64_t i = 0; i < half; ++i) {
    Pair pair = spec.pairing == RopePairing::kInterleaved ? Pair{2 * i, 2 * i + 1, 0, 0}
                                                          : Pair{i, i + half, 0, 0};
    for (std::int64_t p = first; p < first + count; ++p) {
      const double angle = static_cast<double>(p) * frequency[static_cast<std::size_t>(i)];
      pair.cosine += length * std::cos(angle) / static_cast<double>(count);
      pair.sine += length * std::sin(angle) / static_cast<double>(count);
    }
    pairs_.push_back(pair);
  }
}

void AverageRotation::turn(double* x, std::int64_t step) const {
  for (const Pair& pair : pairs_) {
    double &a = x[pair.a * step], &b = x[pair.b * step];
    const double was = a;
    a = pair.cosine * was - pair.sine * b;
    b = pair.sine * was + pair.cosine * b;
  }
}

std::vector<double> AverageRotation::vector(std::span<const double> x) const {
  std::vector<double> out(x.begin(), x.end());
  turn(out.data(), 1);
  return out;
}

std::vector<double> AverageRotation::matrix(std::span<const double> x) const {
  std::vector<double> out(x.begin(), x.end());
  for (std::int64_t i = 0; i < K_; ++i) turn(out.data() + i, K_);  // columns: R·X
  for (std::int64_t i = 0; i < K_; ++i) turn(out.data() + i * K_, 1);
  return out;
}

}  // namespace quire::cache

#include "quire/cache/cluster_pages.h"

#include <algorithm>
#include <cmath>
#include <numeric>
#include <utility>

namespace quire::cache {
namespace {

constexpr int kRounds = 4;  // of the power iteration: a good direction is enough

class Halves {
 public:
  Halves(const float* x_MK, std::int64_t M, std::int64_t K, std::int64_t page)
      : x_(x_MK), K_(K), page_(page), order_(static_cast<std::size_t>(M)) {
    std::iota(order_.begin(), order_.end(), std::int64_t{0});
    split(0, M);
  }
  std::vector<std::int64_t> take() { return std::move(order_); }

 private:
  void split(std::int64_t begin, std::int64_t end) {
    const std::int64_t n = end - begin;
    if (n <= page_) return;
    project(begin, n);
    const std::int64_t half = (n / page_ + 1) / 2 * page_;
    std::vector<std::pair<float, std::int64_t>> by(static_cast<std::size_t>(n));
    for (std::int64_t i = 0; i < n; ++i) {
      const float score = score_[static_cast<std::size_t>(i)];
      // NaN has no place in an order.
      by[static_cast<std::size_t>(i)] = {std::isnan(score) ? 0.0f : score,
                                         order_[static_cast<std::size_t>(begin + i)]};
    }
    std::sort(by.begin(), by.end());
    for (std::int64_t i = 0; i < n; ++i)
      order_[static_cast<std::size_t>(begin + i)] = by[static_cast<std::size_t>(i)].second;
    split(begin, begin + half);
    split(begin + half, end);
  }

  /// Where each row stands on the line along which they differ most: score_.
  void project(std::int64_t begin, std::int64_t n) {
    const auto N = static_cast<std::size_t>(n), K = static_cast<std::size_t>(K_);
    columns_.resize(N * K);
    std::vector<float> direction(K);
    for (std::size_t k = 0; k < K; ++k) {
      float* column = columns_.data() + k * N;
      float mean = 0, spread = 0;
      for (std::size_t i = 0; i < N; ++i)
        mean += column[i] =
            x_[order_[static_cast<std::size_t>(begin) + i] * K_ + static_cast<std::int64_t>(k)];
      mean /= static_cast<float>(n);
      for (std::size_t i = 0; i < N; ++i) {
        column[i] -= mean;
        spread += column[i] * column[i];
      }
      direction[k] = std::sqrt(spread);
    }
    score_.resize(N);
    for (int round = 0; round < kRounds; ++round) {
      std::fill(score_.begin(), score_.end(), 0.0f);
      for (std::size_t k = 0; k < K; ++k) {
        const float* column = columns_.data() + k * N;
        const float weight = direction[k];
        for (std::size_t i = 0; i < N; ++i) score_[i] += weight * column[i];
      }
      if (round + 1 == kRounds) return;
      float largest = 0;
      for (std::size_t k = 0; k < K; ++k) {
        direction[k] = product(columns_.data() + k * N, N);
        largest = std::max(largest, std::abs(direction[k]));
      }
      if (!(largest > 0)) return;
      for (float& x : direction) x /= largest;
    }
  }

  /// With score_, in eight sums.
  float product(const float* column, std::size_t N) const {
    float sums[8] = {};
    std::size_t i = 0;
    for (; i + 8 <= N; i += 8)
      for (std::size_t j = 0; j < 8; ++j) sums[j] += column[i + j] * score_[i + j];
    float sum = 0;
    for (; i < N; ++i) sum += column[i] * score_[i];
    for (const float x : sums) sum += x;
    return sum;
  }

  const float* x_;
  std::int64_t K_, page_;
  std::vector<std::int64_t> order_;
  std::vector<float> columns_, score_;
};

}  // namespace

std::vector<std::int64_t> in_pages(const float* x_MK, std::int64_t M, std::int64_t K,
                                   std::int64_t page) {
  return Halves(x_MK, M, K, page).take();
}

}  // namespace quire::cache

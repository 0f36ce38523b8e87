#include <algorithm>
#include <cmath>

#include "quire/base/thread_pool.h"
#include "quire/ops/attention/hadamard_kernel.h"

namespace quire::kernel {
namespace {

// Rows of one piece of work; fewer are not worth waking a thread.
constexpr std::int64_t kPieceRows = 256;

void turn(float* x, std::int64_t n, float factor) {
  for (std::int64_t half = 1; half < n; half *= 2) {
    for (std::int64_t first = 0; first < n; first += 2 * half) {
      float *low = x + first, *high = low + half;
      for (std::int64_t i = 0; i < half; ++i) {
        const float a = low[i], b = high[i];
        low[i] = a + b;
        high[i] = a - b;
      }
    }
  }
  for (std::int64_t i = 0; i < n; ++i) x[i] *= factor;
}

}  // namespace

void hadamard_cpu(const Hadamard& args) {
  const std::int64_t n = args.width & -args.width,
                     pieces = (args.rows + kPieceRows - 1) / kPieceRows;
  const auto factor = static_cast<float>(1 / std::sqrt(static_cast<double>(n)));
  const auto piece = [&](std::int64_t i) {
    const std::int64_t first = i * kPieceRows * args.width,
                       last = std::min(args.rows, (i + 1) * kPieceRows) * args.width;
    std::copy(args.x + first, args.x + last, args.out + first);
    for (std::int64_t at = first; at < last; at += n) turn(args.out + at, n, factor);
  };
  if (pieces == 1) return piece(0);
  thread_pool().run(pieces, piece);
}

}  // namespace quire::kernel

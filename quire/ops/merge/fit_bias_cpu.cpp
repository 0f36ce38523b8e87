#include <algorithm>
#include <cmath>
#include <limits>
#include <vector>

#include "quire/base/thread_pool.h"
#include "quire/ops/merge/fit_bias_kernel.h"

namespace quire::kernel {
namespace {

constexpr std::int64_t kSpan = 64;
constexpr double kFurthest = 3;  // from the logarithm of the count

/// Calls body(g, slot, count) for all spans of n keys of every head.
template <class Body>
void for_each_span(std::int64_t G, std::int64_t n, const Body& body) {
  const std::int64_t spans = (n + kSpan - 1) / kSpan;
  thread_pool().run(G * spans, [&](std::int64_t piece) {
    const std::int64_t slot = piece % spans * kSpan;
    body(piece / spans, slot, static_cast<int>(std::min(kSpan, n - slot)));
  });
}

void fit_head(const FitBias& args, std::int64_t g) {
  const std::int64_t M = args.M;
  std::vector<double> mass(static_cast<std::size_t>(M));
  for (std::int64_t s = 0; s < args.S; ++s) {
    const std::int64_t m = args.group_GS[g * args.S + s];
    if (m >= 0)
      mass[static_cast<std::size_t>(m)] += static_cast<double>(args.mass_GS[g * args.S + s]);
  }
  for (std::int64_t m = 0; m < M; ++m) {
    const auto square = static_cast<double>(args.square_GM[g * M + m]);
    const bool reached = args.most_GM[g * M + m] > -std::numeric_limits<float>::infinity();
    const double count = std::log(static_cast<double>(args.count_GM[g * M + m]));
    const double fitted = std::log(mass[static_cast<std::size_t>(m)] / square);
    const double near = std::min(count + kFurthest, std::max(count - kFurthest, fitted));
    const bool empty = count == -std::numeric_limits<double>::infinity();
    // No probe, or none with a finite score: the count is all that is known.
    args.bias_GM[g * M + m] =
        static_cast<float>(empty || !reached || std::isnan(fitted) ? count : near);
  }
}

}  // namespace

void fit_bias_cpu(const FitBias& args) {
  const auto merged = QUIRE_FOR_ISA(probe_merged);
  const auto squares = QUIRE_FOR_ISA(probe_squares);
  const auto keys = QUIRE_FOR_ISA(probe_keys);
  const auto floats = static_cast<std::size_t>(kSpan * (args.kv.K + args.rows));
  for_each_span(args.kv.G, args.M, [&](std::int64_t g, std::int64_t slot, int count) {
    thread_local std::vector<float> scratch;
    scratch.resize(floats);
    merged(args, g, slot, count, scratch.data());
    squares(args, g, slot, count);
  });
  for_each_span(args.kv.G, args.S, [&](std::int64_t g, std::int64_t slot, int count) {
    thread_local std::vector<float> scratch;
    scratch.resize(floats);
    keys(args, g, slot, count, scratch.data());
  });
  thread_pool().run(args.kv.G, [&](std::int64_t g) { fit_head(args, g); });
}

}  // namespace quire::kernel

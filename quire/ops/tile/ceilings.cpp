#include "quire/ops/tile/ceilings.h"

#include <algorithm>
#include <array>
#include <chrono>
#include <cstdint>
#include <vector>

#include "quire/base/thread_pool.h"
#include "quire/ops/tile/ceilings_kernel.h"

namespace quire {
namespace {

constexpr std::int64_t kStreamFloatsPerThread = 64 << 20;  // 256 MiB: far beyond any cache
constexpr std::int64_t kMostStreamFloats = 256 << 20;
constexpr std::int64_t kQuickStreamFloats = 1 << 20;
constexpr int kRounds = 5;

/// The work of all threads in a second, the best of some rounds. `body(thread)` does its share.
template <class Body>
double best_rate(double work_per_thread, int rounds, const Body& body) {
  using Clock = std::chrono::steady_clock;
  const int threads = thread_pool().threads();
  // Sums go somewhere, so that no loop can be left out.
  std::vector<float> sums(static_cast<std::size_t>(threads));
  double best = 0;
  for (int round = 0; round < rounds; ++round) {
    const Clock::time_point start = Clock::now();
    thread_pool().run(threads, [&](std::int64_t thread) {
      sums[static_cast<std::size_t>(thread)] += body(thread);
    });
    const double seconds = std::chrono::duration<double>(Clock::now() - start).count();
    if (seconds > 0) best = std::max(best, work_per_thread * threads / seconds);
  }
  volatile float sink = sums.front();
  static_cast<void>(sink);
  return best;
}

double stream(Effort effort, int rounds) {
  const std::int64_t threads = thread_pool().threads();
  std::int64_t per_thread =
      std::min(effort == Effort::kFull ? kStreamFloatsPerThread : kQuickStreamFloats,
               kMostStreamFloats / threads);
  per_thread = std::max<std::int64_t>(per_thread / 128, 1) * 128;
  // Written here: pages that were never written would all be the one page of zeros.
  const std::vector<float> memory(static_cast<std::size_t>(per_thread * threads), 1.0f);
  const auto kernel = QUIRE_FOR_ISA(stream_read);
  return best_rate(
      static_cast<double>(per_thread) * sizeof(float), rounds,
      [&](std::int64_t thread) { return kernel(memory.data() + thread * per_thread, per_thread); });
}

}  // namespace

Ceilings measure_ceilings(Effort effort) {
  const int rounds = effort == Effort::kFull ? kRounds : 1;
  const std::int64_t steps = effort == Effort::kFull ? 2'000'000 : 2'000;
  constexpr double kGiga = 1e9;
  Ceilings out;
  out.stream_gb_s = stream(effort, rounds) / kGiga;
  // Near 1 and small, so that the chains neither overflow nor become denormal.
  std::array<float, 16 * kernel::kOperands> floats{};
  std::fill(floats.begin(), floats.end(), 0.5f);
  std::array<std::uint8_t, 64 * kernel::kOperands> bytes{};
  std::fill(bytes.begin(), bytes.end(), std::uint8_t{1});
  const double lanes = static_cast<double>(steps) * kernel::kChains;
  const auto fma = QUIRE_FOR_ISA(fma_chains);
  out.fma_gflop_s =
      best_rate(lanes * 16 * 2, rounds, [&](std::int64_t) { return fma(floats.data(), steps); }) /
      kGiga;
  const auto dot4 = QUIRE_FOR_ISA(dot4_chains);
  out.int8_gop_s =
      best_rate(lanes * 64 * 2, rounds, [&](std::int64_t) { return dot4(bytes.data(), steps); }) /
      kGiga;
  return out;
}

}  // namespace quire

// What a cache of keys and values is worth: one attention layer reads 4096 tokens and then writes
// five, each from the cache, and each again without one. Beside our times stand those of the
// notebook that asked the question first, measured on its author's processor.
//
// The prompt is read four times into one cache: the first reading, which also asks the system for
// memory, is not counted, and of the others the median is printed. The five tokens are written once
// each, as they are in the notebook. bench/nn/torch_attention_timing.py measures PyTorch the same
// way, and takes turns with this program.
//
//   example_attention_timing [tokens=4096] [hidden=512] [batch=2] [threads=2]
#include <algorithm>
#include <array>
#include <chrono>
#include <cmath>
#include <cstdio>
#include <cstdlib>
#include <vector>

#include "quire/base/thread_pool.h"
#include "quire/nn/attention.h"
#include "quire/tensor/rng.h"

using namespace quire;

namespace {

constexpr int kSteps = 5, kReadings = 3;
constexpr std::array kNotebookStep = {21.4, 13.4, 4.7, 4.5, 6.3};
constexpr double kNotebookPrefill = 226, kNotebookRecompute = 159;  // 147 to 171

template <class Body>
double milliseconds(const Body& body) {
  const auto start = std::chrono::steady_clock::now();
  body();
  return std::chrono::duration<double, std::milli>(std::chrono::steady_clock::now() - start)
      .count();
}

double median(std::vector<double> times) {
  std::sort(times.begin(), times.end());
  return times[times.size() / 2];
}

std::int64_t argument(int argc, char** argv, int at, std::int64_t otherwise) {
  return argc > at ? std::max(1L, std::atol(argv[at])) : otherwise;
}

}  // namespace

int main(int argc, char** argv) {
  const std::int64_t S = argument(argc, argv, 1, 4096), D = argument(argc, argv, 2, 512),
                     B = argument(argc, argv, 3, 2);
  set_threads(static_cast<int>(argument(argc, argv, 4, 2)));
  Rng rng(0);
  const nn::SelfAttention<Tensor> layer(D, rng);
  Tensor x = Tensor::empty({B, S + kSteps, D}, DType::kF32);
  std::generate_n(x.mutable_data<float>(), x.elements(), [&] { return rng.normal(); });

  nn::AttentionCache<Tensor> cache(S + kSteps);
  std::vector<double> readings;
  for (int reading = -1; reading < kReadings; ++reading) {
    cache.clear();
    const double spent = milliseconds([&] { (void)layer(x.slice(1, 0, S), cache); });
    if (reading >= 0) readings.push_back(spent);
  }
  std::printf("%-26s%9.1f ms   notebook %6.1f ms\n", "read the prompt", median(readings),
              kNotebookPrefill);

  std::vector<double> cached, plain;
  double worst = 0;
  for (int step = 0; step < kSteps; ++step) {
    const std::int64_t at = S + step;
    Tensor one, all;
    cached.push_back(milliseconds([&] { one = layer(x.slice(1, at, at + 1), cache); }));
    plain.push_back(milliseconds([&] { all = layer(x.slice(1, 0, at + 1)); }));
    for (std::int64_t b = 0; b < B; ++b)
      for (std::int64_t d = 0; d < D; ++d)
        worst = std::max(worst, std::fabs(double{one.data<float>()[b * D + d]} -
                                          double{all.data<float>()[(b * (at + 1) + at) * D + d]}));
    std::printf("token %d with the cache     %9.2f ms   notebook %6.1f ms\n", step, cached.back(),
                kNotebookStep[static_cast<std::size_t>(step)]);
    std::printf("token %d without            %9.1f ms   notebook %6.1f ms\n", step, plain.back(),
                kNotebookRecompute);
  }
  std::printf("a step is %.0f times as fast as the recompute (notebook: 25)\n",
              median(plain) / median(cached));
  std::printf("their outputs differ by at most %.1e\n", worst);
  return worst < 1e-5 ? 0 : 1;
}

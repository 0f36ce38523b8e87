// What merging takes when reading ends, beside what attention takes to read the same tokens, on
// random keys in the geometry of SmolLM2-135M.
//
//   merged_bench [TOKENS=1603] [BUDGET=0.3] [NAME=merged] [LAYERS=30] [ROUNDS=3]
//
// Prints a JSON object: seconds of reading (append and attend, with what the cache observes), of
// end_reading(), and milliseconds of a step of one token afterwards, all layers; medians over the
// rounds; and the bytes before and after. NAME may be `window`: the last tokens in their stead.
#include <algorithm>
#include <chrono>
#include <cstdio>
#include <cstdlib>
#include <memory>
#include <string>
#include <utility>
#include <vector>

#include "quire/cache/merged.h"
#include "quire/cache/policies/policies.h"
#include "quire/cache/policy_cache.h"
#include "quire/tensor/rng.h"

namespace {

using quire::Tensor;

constexpr std::int64_t kSteps = 100;

Tensor numbers(quire::Rng& rng, quire::Shape shape) {
  Tensor out = Tensor::empty(std::move(shape), quire::DType::kF32);
  float* x = out.mutable_data<float>();
  for (std::int64_t i = 0; i < out.elements(); ++i) x[i] = rng.normal();
  return out;
}

double now() {
  return std::chrono::duration<double>(std::chrono::steady_clock::now().time_since_epoch()).count();
}

double median(std::vector<double> x) {
  std::sort(x.begin(), x.end());
  return x[x.size() / 2];
}

std::unique_ptr<quire::cache::KvCache> make_cache(const std::string& name,
                                                  std::vector<quire::cache::LayerSpec> layers,
                                                  double budget, std::int64_t capacity) {
  const quire::cache::Budget kept{.fraction = budget};
  if (name == "window")
    return std::make_unique<quire::cache::PolicyCache>(
        std::move(layers), quire::cache::window_policy(), kept, capacity, quire::DType::kF16);
  return std::make_unique<quire::cache::MergedCache>(
      std::move(layers), quire::cache::merge_options(name), kept, capacity, quire::DType::kF16);
}

/// Milliseconds of a step of one token in all layers, the median.
double step_ms(quire::cache::KvCache& cache, std::int64_t layers, const Tensor& q, const Tensor& k,
               const Tensor& v, std::int64_t steps) {
  std::vector<double> out;
  for (std::int64_t n = 0; n < steps; ++n) {
    const double start = now();
    for (std::int64_t layer = 0; layer < layers; ++layer) {
      cache.append(layer, k.slice(0, n, n + 1), v.slice(0, n, n + 1));
      static_cast<void>(cache.attend(layer, q.slice(0, n, n + 1)));
    }
    cache.advance(1);
    out.push_back(1e3 * (now() - start));
  }
  return median(out);
}

}  // namespace

int main(int argc, char** argv) {
  const auto argument = [&](int i, const char* other) {
    return std::string(argc > i ? argv[i] : other);
  };
  const std::int64_t tokens = std::atoll(argument(1, "1603").c_str()), chunk = 256;
  const double budget = std::atof(argument(2, "0.3").c_str());
  const std::string name = argument(3, "merged");
  const auto layers = static_cast<std::size_t>(std::atoll(argument(4, "30").c_str()));
  const int rounds = std::atoi(argument(5, "3").c_str());
  quire::cache::LayerSpec spec{9, 3, 64, 64, {}};
  spec.attention.alignment = quire::Alignment::kBottomRight;
  quire::Rng rng(1);
  const Tensor q = numbers(rng, {tokens, 9, 64}), k = numbers(rng, {tokens, 3, 64}),
               v = numbers(rng, {tokens, 3, 64});
  std::vector<double> reading, merging, stepping;
  std::int64_t before = 0, after = 0;
  for (int round = 0; round < rounds; ++round) {
    const auto made = make_cache(name, std::vector(layers, spec), budget, tokens + kSteps);
    quire::cache::KvCache& cache = *made;
    const double start = now();
    for (std::int64_t at = 0; at < tokens; at += chunk) {
      const std::int64_t end = std::min(tokens, at + chunk);
      for (std::size_t layer = 0; layer < layers; ++layer) {
        const auto n = static_cast<std::int64_t>(layer);
        cache.append(n, k.slice(0, at, end), v.slice(0, at, end));
        cache.attend(n, q.slice(0, at, end));
      }
      cache.advance(end - at);
    }
    const double read = now();
    before = cache.bytes();
    cache.end_reading();
    reading.push_back(read - start);
    merging.push_back(now() - read);
    after = cache.bytes();
    stepping.push_back(step_ms(cache, static_cast<std::int64_t>(layers), q, k, v, kSteps));
  }
  std::printf(
      "{\"cache\": \"%s\", \"tokens\": %lld, \"budget\": %g, \"reading_s\": %.4g, "
      "\"merging_s\": %.4g, \"step_ms\": %.4g, \"bytes_before\": %lld, \"bytes_after\": %lld}\n",
      name.c_str(), static_cast<long long>(tokens), budget, median(reading), median(merging),
      median(stepping), static_cast<long long>(before), static_cast<long long>(after));
  return 0;
}

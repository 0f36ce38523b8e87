// A layer reads a long context exactly, builds an index, moves the context away, and attends to
// what each query finds there and to an estimate of the rest. What search() finds is compared with
// brute force, the output with plain SelfAttention.
#include "quire/nn/heterogeneous.h"

#include <algorithm>
#include <cmath>
#include <cstdint>
#include <cstdio>
#include <vector>

#include "quire/ops/matmul/linear.h"

using quire::Tensor;
namespace {

constexpr std::int64_t kTokens = 4096, kHidden = 64, kSteps = 16, kTopK = 400;

// A text: stretches of tokens about one of 50 topics.
Tensor text(quire::Rng& rng) {
  std::vector<float> topics(50 * kHidden), x;
  for (float& t : topics) t = 2 * rng.normal();
  for (std::int64_t n = 0; n < kTokens + kSteps; ++n)
    for (std::int64_t i = 0; i < kHidden; ++i)
      x.push_back(topics[static_cast<std::size_t>(n / 16 * 7 % 50 * kHidden + i)] + rng.normal());
  return Tensor::of<float>(x, {1, kTokens + kSteps, kHidden});
}

// The share of the 32 best keys of the context, by score, that search() found.
double recall(quire::nn::HeterogeneousAttention& layer, const Tensor& q_HK, const Tensor& k_SD) {
  const auto zones = layer.cache(0).zones(0);
  std::vector<std::pair<double, std::int32_t>> best;
  for (std::int64_t s = zones.sink; s < zones.sink + zones.context; ++s) {
    double score = 0;
    for (std::int64_t i = 0; i < kHidden; ++i)
      score += double{q_HK.data<float>()[i]} * double{k_SD.data<float>()[s * kHidden + i]};
    best.emplace_back(-score, static_cast<std::int32_t>(s));
  }
  std::partial_sort(best.begin(), best.begin() + 32, best.end());
  const auto found = layer.search(0, q_HK, kTopK).heads_G[0].positions;
  double hits = 0;
  for (std::size_t i = 0; i < 32; ++i)
    hits += std::count(found.begin(), found.end(), best[i].second) > 0 ? 1 : 0;
  return hits / 32;
}

}  // namespace

int main() {
  quire::Rng rng(1), same(1);
  quire::nn::HeterogeneousSpec spec;
  spec.cache.budget = {.tokens = kTopK};
  quire::nn::HeterogeneousAttention layer(kHidden, 0, rng, spec);
  const quire::nn::SelfAttention<Tensor> plain(kHidden, same);
  quire::nn::AttentionCache<Tensor> past(kTokens + kSteps);
  const Tensor x = text(rng);
  layer(x.slice(1, 0, kTokens));
  plain(x.slice(1, 0, kTokens), past);
  layer.build();
  layer.offload();
  const Tensor k_SD = quire::linear(x.view({kTokens + kSteps, kHidden}), plain.weights().k);
  double found = 0, off = 0, size = 0;
  for (std::int64_t t = kTokens; t < kTokens + kSteps; ++t) {
    const Tensor token = x.slice(1, t, t + 1).contiguous_copy();
    const Tensor out = layer(token), truth = plain(token, past);
    found += recall(layer, layer.queries(token).view({1, kHidden}), k_SD) / kSteps;
    for (std::int64_t i = 0; i < kHidden; ++i) {
      off += std::pow(double{out.data<float>()[i]} - double{truth.data<float>()[i]}, 2);
      size += std::pow(double{truth.data<float>()[i]}, 2);
    }
  }
  const double error = std::sqrt(off / size),
               read = 1e-6 * static_cast<double>(layer.cache(0).report().bytes_read);
  std::printf("recall of the 32 best keys at %lld of %lld tokens: %.2f\n",
              static_cast<long long>(kTopK), static_cast<long long>(kTokens), found);
  std::printf("a step reads %.2f MB of %.2f MB; its output is off by %.4f\n", read,
              1e-6 * static_cast<double>(layer.cache(0).report().bytes_stored), error);
  return found >= 0.9 && error < 0.1 ? 0 : 1;
}

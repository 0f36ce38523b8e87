// A cache policy of one's own is a class with a name and a score. This one keeps the keys that the
// average query of the document points at. Beside it: the window (the floor that a policy must
// beat) and the oracle (the ceiling), by the error of the attention output on synthetic keys.
#include <cmath>
#include <cstdint>
#include <cstdio>
#include <vector>

#include "quire/cache/policies/policies.h"
#include "quire/tensor/rng.h"

namespace {

using namespace quire::cache;
using quire::Tensor;

class MeanQuery : public Policy {
 public:
  std::string_view name() const override { return "mean query"; }
  Observe observe() const override { return {.moments = true}; }
  std::int64_t sinks() const override { return 4; }
  void score(const HeadContext& head, std::span<float> score_S) const override {
    const auto K = static_cast<std::size_t>(head.spec->K);
    for (std::size_t s = 0; s < score_S.size(); ++s) {
      double sum = 0;
      for (std::size_t i = 0; i < head.mean_RK.size(); ++i)
        sum += head.mean_RK[i] * double{head.k_SK[s * K + i % K]};
      score_S[s] = static_cast<float>(sum);
    }
  }
};

constexpr std::int64_t kContext = 2000, kAsked = 50, kTokens = kContext + kAsked, kSize = 32;

// Normal numbers around `mean` in every element.
Tensor noise(quire::Rng& rng, std::int64_t heads, float mean) {
  Tensor out = Tensor::empty({kTokens, heads, kSize}, quire::DType::kF32);
  float* x = out.mutable_data<float>();
  for (std::int64_t i = 0; i < out.elements(); ++i) x[i] = mean + rng.normal();
  return out;
}

// The outputs of the asked queries once the context was read.
std::vector<float> outputs(KvCache& cache, const Tensor& q, const Tensor& k, const Tensor& v) {
  std::vector<float> out;
  for (std::int64_t at = 0; at < kTokens; at += at < kContext ? 500 : 1) {
    if (at == kContext) cache.end_reading();
    const std::int64_t end = at < kContext ? at + 500 : at + 1;
    cache.append(0, k.slice(0, at, end), v.slice(0, at, end));
    const Tensor o = cache.attend(0, q.slice(0, at, end));
    if (at >= kContext) out.insert(out.end(), o.data<float>(), o.data<float>() + o.elements());
    cache.advance(end - at);
  }
  return out;
}

}  // namespace

int main() {
  quire::Rng rng(1);
  const Tensor q = noise(rng, 4, 2), k = noise(rng, 2, 0), v = noise(rng, 2, 0);
  const std::vector<LayerSpec> layers{{.H = 4, .G = 2, .K = kSize, .U = kSize, .attention = {}}};
  const auto error = [&](std::unique_ptr<Policy> policy, std::int64_t budget) {
    PolicyCache cache(layers, std::move(policy), {.tokens = budget}, kTokens, quire::DType::kF32);
    const auto full = make_policy_cache("full", {}, layers, kTokens, quire::DType::kF32);
    const std::vector<float> got = outputs(cache, q, k, v), truth = outputs(*full, q, k, v);
    double difference = 0, size = 0;
    for (std::size_t i = 0; i < got.size(); ++i) {
      difference += std::pow(double{got[i]} - double{truth[i]}, 2);
      size += std::pow(double{truth[i]}, 2);
    }
    return std::sqrt(difference / size);
  };
  const double window = error(window_policy(), 200),
               own = error(std::make_unique<MeanQuery>(), 200),
               oracle = error(oracle_policy(), 200);
  std::printf("relative error with 200 of %d keys: window %.3f, mean query %.3f, oracle %.3f\n",
              static_cast<int>(kContext), window, own, oracle);
  return oracle < own && own < window ? 0 : 1;
}

// Attention over a long context can be computed in parts, wherever the parts lie, and merged: each
// part gives an output and a log-sum-exp, and that is all the merge needs. Here the parts are the
// two halves of one context, and the result is compared with attention over the whole.
#include <cmath>
#include <cstdint>
#include <cstdio>
#include <vector>

#include "quire/ops/attention/attention.h"
#include "quire/tensor/tensor.h"

namespace {

constexpr std::int64_t kKeys = 1000, kHeads = 4, kKvHeads = 2, kSize = 32;

std::vector<float> waves(std::int64_t count, double step) {
  std::vector<float> values(static_cast<std::size_t>(count));
  for (std::size_t i = 0; i < values.size(); ++i) {
    values[i] = static_cast<float>(std::sin(step * static_cast<double>(i)));
  }
  return values;
}

// A page of keys and values that stays where it is: a view of slots [first, first + *length).
quire::KvView page(const std::vector<float>& k, const std::vector<float>& v, std::int64_t first,
                   const std::int64_t* length) {
  quire::KvView view;
  view.k_pages = k.data() + first * kKvHeads * kSize;
  view.v_pages = v.data() + first * kKvHeads * kSize;
  view.k_strides = {.page = *length * kKvHeads * kSize, .slot = kKvHeads * kSize, .head = kSize};
  view.v_strides = view.k_strides;
  view.P = 1;
  view.Z = *length;
  view.G = kKvHeads;
  view.K = view.U = kSize;
  view.length_BG = length;
  return view;
}

}  // namespace

int main() {
  const std::vector<float> q = waves(kHeads * kSize, 0.7);
  const std::vector<float> k = waves(kKeys * kKvHeads * kSize, 0.3);
  const std::vector<float> v = waves(kKeys * kKvHeads * kSize, 0.2);
  const std::vector<std::int32_t> start{0, 1};
  const auto q_NHK = quire::Tensor::of<float>(q, {1, kHeads, kSize});
  const auto start_J = quire::Tensor::of<std::int32_t>(start, {2});

  quire::AttentionSpec spec;
  spec.window_right = quire::kUnlimited;  // the query sees every key of its part

  const std::int64_t all = kKeys, head = 300, tail = kKeys - head;
  const auto whole = quire::attention(q_NHK, start_J, page(k, v, 0, &all), spec);
  const auto first = quire::attention(q_NHK, start_J, page(k, v, 0, &head), spec);
  const auto second = quire::attention(q_NHK, start_J, page(k, v, head, &tail), spec);
  const auto merged = quire::merge_attention(first, second);

  double worst = 0;
  for (std::int64_t i = 0; i < kHeads * kSize; ++i) {
    const double difference =
        double{whole.out_NHU.data<float>()[i]} - double{merged.out_NHU.data<float>()[i]};
    worst = std::fmax(worst, std::fabs(difference));
  }
  std::printf("merged and whole differ by at most %.1e\n", worst);
  return worst < 1e-5 ? 0 : 1;
}

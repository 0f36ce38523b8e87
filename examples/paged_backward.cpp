// Two sequences begin with the same page of keys and values: its gradient is the sum of what both
// owe it, without a copy of the page.

#include <cmath>
#include <cstdint>
#include <cstdio>
#include <vector>

#include "quire/ops/attention/attention_backward.h"

namespace {

using quire::Tensor;

constexpr std::int64_t kPages = 3, kSlots = 4, kSize = 8, kQueries = 2;

std::vector<float> numbers(std::int64_t n, double step) {
  std::vector<float> out;
  for (std::int64_t i = 0; i < n; ++i)
    out.push_back(static_cast<float>(std::sin(step * static_cast<double>(i + 1))));
  return out;
}

/// Gradients of the values, [page, slot, size], for sequences over these rows of the table.
std::vector<float> dv_pages(const std::vector<std::int32_t>& table,
                            const std::vector<std::int64_t>& lengths) {
  const std::vector<float> k = numbers(kPages * kSlots * kSize, 0.7),
                           v = numbers(kPages * kSlots * kSize, 0.3);
  quire::KvView kv;
  kv.k_pages = k.data();
  kv.v_pages = v.data();
  kv.k_strides = kv.v_strides = {kSlots * kSize, kSize, kSize};
  kv.P = kPages;
  kv.Z = kSlots;
  kv.G = 1;
  kv.K = kv.U = kSize;
  kv.table = table.data();
  kv.W = 2;
  kv.length_BG = lengths.data();
  quire::AttentionSpec spec;
  spec.alignment = quire::Alignment::kBottomRight;

  const std::int64_t N = 2 * kQueries;
  const std::int32_t start[] = {0, kQueries, 2 * kQueries};
  const Tensor start_J = Tensor::of(std::span<const std::int32_t>(start), {3});
  const std::vector<float> q_numbers = numbers(N * kSize, 0.11),
                           dout_numbers = numbers(N * kSize, 0.5);
  const Tensor q = Tensor::of(std::span<const float>(q_numbers), {N, 1, kSize}),
               dout = Tensor::of(std::span<const float>(dout_numbers), {N, 1, kSize});
  const quire::AttentionResult result = quire::attention(q, start_J, kv, spec);
  std::vector<float> dk(k.size()), dv(v.size());
  quire::AttentionGradients gradients;
  gradients.dk_pages = dk.data();
  gradients.dv_pages = dv.data();
  quire::attention_backward(gradients, dout, Tensor(), q, start_J, kv, spec, result);
  return dv;
}

}  // namespace

int main() {
  // Page 0 is shared; sequence 0 goes on in page 1, sequence 1 in page 2.
  const std::vector<std::int32_t> table = {0, 1, 0, 2};
  const std::vector<float> both = dv_pages(table, {7, 6}), first = dv_pages(table, {7, 0}),
                           second = dv_pages(table, {0, 6});
  std::printf("gradient of the shared page's first value\n");
  std::printf(
      "  owed by sequence 0  %9.6f\n  owed by sequence 1  %9.6f\n  both at once        %9.6f\n",
      double{first[0]}, double{second[0]}, double{both[0]});
  for (std::size_t i = 0; i < both.size(); ++i)
    if (std::abs(both[i] - first[i] - second[i]) > 1e-6f) return 1;
  return first[0] != 0 && second[0] != 0 ? 0 : 1;
}

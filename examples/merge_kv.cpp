// Merges the keys of a cache into fewer: each joins the most similar of M chosen keys, and a group
// becomes its members' mean, weighted by a softmax of their similarities. Loops check the result.
#include <cmath>
#include <cstdio>
#include <limits>
#include <span>
#include <vector>

#include "quire/grad/index.h"
#include "quire/grad/math.h"
#include "quire/grad/matmul.h"
#include "quire/grad/tape.h"
#include "quire/grad/views.h"
#include "quire/tensor/rng.h"

using namespace quire;
using namespace quire::grad;
constexpr std::int64_t B = 2, H = 4, N = 20, M = 5, K = 64;

Var merge(const Var& a_BHNK, const Var& b_BHMK) {
  const Var lengths =
      matmul(norm(a_BHNK, -1, Axis::kKeep), transpose(norm(b_BHMK, -1, Axis::kKeep), -2, -1));
  const Var cosine_BHNM = div(matmul(a_BHNK, transpose(b_BHMK, -2, -1)), lengths);
  const auto [best_BHN, group_BHN] = max(cosine_BHNM, -1);
  const Var lowest(full({B, H, M}, -std::numeric_limits<double>::infinity(), DType::kF32));
  const Var peak_BHM = scatter_reduce(lowest, -1, group_BHN, best_BHN, Reduce::kAmax);
  const Var weight_BHN = exp(sub(best_BHN, gather(peak_BHM, -1, group_BHN)));
  const Var none(Tensor::zeros({B, H, M}, DType::kF32));
  const Var total_BHM = scatter_reduce(none, -1, group_BHN, weight_BHN, Reduce::kSum);
  const Tensor rows_BHNK = group_BHN.view({B, H, N, 1}).expand({B, H, N, K});
  const Var empty(Tensor::zeros({B, H, M, K}, DType::kF32));
  const Var sum_BHMK = scatter_reduce(empty, 2, rows_BHNK,
                                      mul(a_BHNK, view(weight_BHN, {B, H, N, 1})), Reduce::kSum);
  return div(sum_BHMK, clamp_min(view(total_BHM, {B, H, M, 1}), 1e-12));
}

// One head by loops, in double precision.
void merge_head(std::vector<double>& out, const float* a, const float* b) {
  std::vector<double> total(M);
  for (std::int64_t n = 0; n < N; ++n, a += K) {
    double best = -2;
    std::int64_t group = 0;
    for (std::int64_t m = 0; m < M; ++m) {
      double dot = 0, aa = 0, bb = 0;
      for (std::int64_t k = 0; k < K; ++k) {
        const double x = a[k], y = b[m * K + k];
        dot += x * y, aa += x * x, bb += y * y;
      }
      const double cosine = dot / std::sqrt(aa * bb);
      if (cosine > best) best = cosine, group = m;
    }
    const auto g = static_cast<std::size_t>(group);
    total[g] += std::exp(best);
    for (std::size_t k = 0; k < K; ++k) out[g * K + k] += std::exp(best) * double{a[k]};
  }
  for (std::size_t i = 0; i < out.size(); ++i) out[i] /= std::max(total[i / K], 1e-12);
}

Var random_keys(std::int64_t keys, Rng& rng) {
  std::vector<float> values(static_cast<std::size_t>(B * H * keys * K));
  for (float& x : values) x = static_cast<float>(rng.uniform());
  return Var(Tensor::of(std::span<const float>(values), {B, H, keys, K}), Needs::kGradient);
}

int main() {
  Rng rng(0);
  const Var a = random_keys(N, rng), b = random_keys(M, rng), merged = merge(a, b);
  const float *from = a.value().data<float>(), *to = b.value().data<float>(),
              *found = merged.value().data<float>();
  double error = 0;
  for (std::int64_t head = 0; head < B * H; ++head) {
    std::vector<double> expected(M * K);
    merge_head(expected, from + head * N * K, to + head * M * K);
    for (const double x : expected) error = std::max(error, std::abs(*found++ - x));
  }
  backward(sum(mul(merged, merged)));
  std::printf("%d keys into %d: at most %.1e from the loop; gradients of %s keys\n", int{N}, int{M},
              error, to_string(b.gradient().shape()).c_str());
  return error <= 1e-6 ? 0 : 1;
}

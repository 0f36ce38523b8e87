#include <cmath>

#include "quire/ops/math/loss_kernel.h"
#include "quire/ops/math/numbers.h"
#include "quire/ops/math/rows.h"

namespace quire::kernel {
namespace {

template <class T>
double log_sum_exp(const T* x, std::int64_t V) {
  Compute<T> largest = widen(x[0]);
  for (std::int64_t v = 1; v < V; ++v)
    if (widen(x[v]) > largest) largest = widen(x[v]);
  if (std::isinf(largest)) return static_cast<double>(largest);
  double sum = 0;
  for (std::int64_t v = 0; v < V; ++v) sum += static_cast<double>(std::exp(widen(x[v]) - largest));
  return static_cast<double>(largest) + std::log(sum);
}

}  // namespace

void cross_entropy_cpu(const CrossEntropy& args) {
  with_floating(args.dtype, [&](auto tag) {
    using T = decltype(tag);
    const T* logits = static_cast<const T*>(args.logits_NV);
    for_rows(args.N, args.V * 8, [&](std::int64_t begin, std::int64_t end) {
      for (std::int64_t n = begin; n < end; ++n)
        args.lse_N[n] = log_sum_exp(logits + n * args.V, args.V);
    });
    double sum = 0;
    for (std::int64_t n = 0; n < args.N; ++n) {
      if (args.target_N[n] == args.ignore) continue;
      sum += args.lse_N[n] - static_cast<double>(widen(logits[n * args.V + args.target_N[n]]));
    }
    const double mean = sum / static_cast<double>(args.rows);
    *static_cast<T*>(args.loss) = narrow<T>(static_cast<Compute<T>>(mean));
  });
}

void cross_entropy_backward_cpu(const CrossEntropyBackward& args) {
  with_floating(args.dtype, [&](auto tag) {
    using T = decltype(tag);
    const double scale = static_cast<double>(widen(*static_cast<const T*>(args.dloss))) /
                         static_cast<double>(args.rows);
    for_rows(args.N, args.V * 8, [&](std::int64_t begin, std::int64_t end) {
      for (std::int64_t n = begin; n < end; ++n) {
        const T* x = static_cast<const T*>(args.logits_NV) + n * args.V;
        T* dx = static_cast<T*>(args.dlogits_NV) + n * args.V;
        const std::int64_t target = args.target_N[n];
        for (std::int64_t v = 0; v < args.V; ++v) {
          const double share = std::exp(static_cast<double>(widen(x[v])) - args.lse_N[n]);
          const double slope = target == args.ignore ? 0 : scale * (share - (v == target ? 1 : 0));
          dx[v] = narrow<T>(static_cast<Compute<T>>(slope));
        }
      }
    });
  });
}

}  // namespace quire::kernel

#include <cmath>

#include "quire/ops/math/rows.h"
#include "quire/ops/moe/expert_activation_formula.h"
#include "quire/ops/moe/expert_activation_kernel.h"

namespace quire::kernel {
namespace {

struct DoubleMath {
  using V = double;
  static V set(double x) { return x; }
  static V add(V x, V y) { return x + y; }
  static V sub(V x, V y) { return x - y; }
  static V mul(V x, V y) { return x * y; }
  static V min(V x, V y) { return y < x ? y : x; }
  static V max(V x, V y) { return y > x ? y : x; }
  static V if_less(V x, V y, V yes, V no) { return x < y ? yes : no; }
  static V sigmoid(V x) {
    const V e = std::exp(-std::abs(x));
    return (x < 0 ? e : 1) / (1 + e);
  }
};

void row_f64(const ActivationRows& args, std::int64_t m) {
  const std::int64_t width = args.pairs ? 2 * args.F : args.F;
  const bool halves = args.layout == PairLayout::kHalves || !args.pairs;
  const double* pre = static_cast<const double*>(args.pre) + m * width;
  double* out = static_cast<double*>(args.out) + m * (args.dout == nullptr ? args.F : width);
  for (std::int64_t f = 0; f < args.F; ++f) {
    const std::int64_t at = halves ? f : 2 * f, next = at + (halves ? args.F : 1);
    const double a = pre[at], b = args.pairs ? pre[next] : 0.0;
    if (args.dout == nullptr) {
      out[f] = activation_value<DoubleMath>(args.kind, a, b, args.limit, args.alpha);
      continue;
    }
    const double dout = static_cast<const double*>(args.dout)[m * args.F + f];
    const auto slopes = activation_slopes<DoubleMath>(args.kind, a, b, args.limit, args.alpha);
    out[at] = dout * slopes.a;
    if (args.pairs) out[next] = dout * slopes.b;
  }
}

}  // namespace

void activation_cpu(const ActivationRows& args) {
  const auto row = QUIRE_FOR_ISA(activation_row);
  // An exponential and a division weigh as much as eight streamed numbers.
  for_rows(args.M, 8 * args.F, [&](std::int64_t begin, std::int64_t end) {
    for (std::int64_t m = begin; m < end; ++m) {
      if (args.dtype == DType::kF64) {
        row_f64(args, m);
      } else {
        row(args, m);
      }
    }
  });
}

}  // namespace quire::kernel

#include <algorithm>
#include <cmath>
#include <limits>

#include "quire/base/thread_pool.h"
#include "quire/ops/merge/combine_groups_kernel.h"

namespace quire::kernel {
namespace {

/// The shares of both means in the common one.
struct Shares {
  double a, b;
};

template <class T>
void combine_row(const CombineGroups<T>& args, std::int64_t row) {
  const double peak_a = static_cast<double>(args.a.peak[row]),
               peak_b = static_cast<double>(args.b.peak[row]),
               count_a = static_cast<double>(args.a.count[row]),
               count_b = static_cast<double>(args.b.count[row]);
  constexpr double kEmpty = -std::numeric_limits<double>::infinity();
  const bool has_a = static_cast<double>(args.a.bias[row]) != kEmpty,
             has_b = static_cast<double>(args.b.bias[row]) != kEmpty;
  // An empty group's peak says nothing.
  const double peak = has_a && has_b ? std::max(peak_a, peak_b) : has_a ? peak_a : peak_b;
  const double weight_a =
      has_a ? static_cast<double>(args.a.weight[row]) * std::exp(peak_a - peak) : 0;
  const double weight_b =
      has_b ? static_cast<double>(args.b.weight[row]) * std::exp(peak_b - peak) : 0;
  const double weight = weight_a + weight_b, count = count_a + count_b;
  // Two groups without weight were plain means.
  Shares share{has_a ? 1.0 : 0.0, has_a ? 0.0 : 1.0};
  if (weight > 0) share = {weight_a / weight, weight_b / weight};
  if (weight == 0 && has_a && has_b && count > 0) share = {count_a / count, count_b / count};
  const auto mean = [&](T* out, const T* a, const T* b, std::int64_t n) {
    for (std::int64_t i = row * n; i < (row + 1) * n; ++i)
      out[i] =
          static_cast<T>(share.a * static_cast<double>(a[i]) + share.b * static_cast<double>(b[i]));
  };
  mean(args.out.k, args.a.k, args.b.k, args.K);
  mean(args.out.v, args.a.v, args.b.v, args.U);
  args.out.weight[row] = static_cast<T>(weight);
  args.out.peak[row] = static_cast<T>(peak);
  args.out.count[row] = static_cast<T>(count);
  const double bias = args.log_count ? std::log(count) : 0;
  args.out.bias[row] = static_cast<T>(has_a || has_b ? bias : kEmpty);
}

template <class T>
void combine(const CombineGroups<T>& args) {
  thread_pool().run(args.rows, [&](std::int64_t row) { combine_row(args, row); });
}

}  // namespace

void combine_groups_cpu(const CombineGroups<float>& args) { combine(args); }
void combine_groups_cpu(const CombineGroups<double>& args) { combine(args); }

}  // namespace quire::kernel

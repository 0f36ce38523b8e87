#include <vector>

#include "quire/ops/math/rows.h"
#include "quire/ops/moe/group_bwd_w_kernel.h"

namespace quire::kernel {
namespace {

template <class T>
void sum_group(const GroupedSum& args, std::int64_t e) {
  std::vector<double> sums(static_cast<std::size_t>(args.F));
  for (std::int64_t m = args.start_J[e]; m < args.start_J[e + 1]; ++m) {
    const T* y = static_cast<const T*>(args.y) + args.y_row(m) * args.F;
    const double factor =
        args.factor == nullptr
            ? 1.0
            : static_cast<double>(static_cast<const T*>(args.factor)[args.factor_row(m)]);
    for (std::int64_t f = 0; f < args.F; ++f)
      sums[static_cast<std::size_t>(f)] += factor * static_cast<double>(y[f]);
  }
  T* out = static_cast<T*>(args.out) + e * args.F;
  for (std::int64_t f = 0; f < args.F; ++f)
    out[f] = static_cast<T>(sums[static_cast<std::size_t>(f)]);
}

}  // namespace

void grouped_sum_cpu(const GroupedSum& args) {
  const std::int64_t rows = args.start_J[args.E] - args.start_J[0];
  const std::int64_t work = (rows / (args.E > 0 ? args.E : 1) + 1) * args.F;
  for_rows(args.E, work, [&](std::int64_t begin, std::int64_t end) {
    for (std::int64_t e = begin; e < end; ++e) {
      if (args.dtype == DType::kF64) {
        sum_group<double>(args, e);
      } else {
        sum_group<float>(args, e);
      }
    }
  });
}

}  // namespace quire::kernel

#include <vector>

#include "quire/ops/math/rows.h"
#include "quire/ops/moe/group_kernel.h"

namespace quire::kernel {
namespace {

void combine_f64(const Combine& args, std::int64_t n) {
  double* out = static_cast<double*>(args.out) + n * args.D;
  for (std::int64_t d = 0; d < args.D; ++d) out[d] = 0;
  for (std::int64_t i = n * args.C; i < (n + 1) * args.C; ++i) {
    const double* row = static_cast<const double*>(args.rows) + args.row(i) * args.D;
    const double factor =
        args.factor == nullptr ? 1.0 : static_cast<const double*>(args.factor)[args.factor_row(i)];
    for (std::int64_t d = 0; d < args.D; ++d) out[d] += factor * row[d];
  }
}

double dot_f64(const double* a, const double* b, std::int64_t D) {
  double sum = 0;
  for (std::int64_t d = 0; d < D; ++d) sum += a[d] * b[d];
  return sum;
}

}  // namespace

void combine_cpu(const Combine& args) {
  const auto row = QUIRE_FOR_ISA(combine_row);
  for_rows(args.N, args.C * args.D, [&](std::int64_t begin, std::int64_t end) {
    std::vector<const float*> rows(static_cast<std::size_t>(args.C));
    std::vector<float> factors(rows.size());
    for (std::int64_t n = begin; n < end; ++n) {
      if (args.dtype == DType::kF64) {
        combine_f64(args, n);
        continue;
      }
      for (std::int64_t c = 0; c < args.C; ++c) {
        const std::int64_t i = n * args.C + c;
        const auto at = static_cast<std::size_t>(c);
        rows[at] = static_cast<const float*>(args.rows) + args.row(i) * args.D;
        if (args.factor != nullptr)
          factors[at] = static_cast<const float*>(args.factor)[args.factor_row(i)];
      }
      row({.out = static_cast<float*>(args.out) + n * args.D,
           .rows = rows.data(),
           .factor = args.factor == nullptr ? nullptr : factors.data(),
           .C = args.C,
           .D = args.D});
    }
  });
}

void row_dots_cpu(const RowDots& args) {
  const auto dot = QUIRE_FOR_ISA(row_dot);
  for_rows(args.M, 2 * args.D, [&](std::int64_t begin, std::int64_t end) {
    for (std::int64_t m = begin; m < end; ++m) {
      const std::int64_t a = args.a_row(m) * args.D, b = args.b_row(m) * args.D;
      if (args.dtype == DType::kF64) {
        double* out = static_cast<double*>(args.out) + args.out_row(m);
        *out = (args.add ? *out : 0) + dot_f64(static_cast<const double*>(args.a) + a,
                                               static_cast<const double*>(args.b) + b, args.D);
      } else {
        float* out = static_cast<float*>(args.out) + args.out_row(m);
        *out = (args.add ? *out : 0) + dot(static_cast<const float*>(args.a) + a,
                                           static_cast<const float*>(args.b) + b, args.D);
      }
    }
  });
}

}  // namespace quire::kernel

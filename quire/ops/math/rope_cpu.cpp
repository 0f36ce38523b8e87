#include <cmath>

#include "quire/ops/math/rope_kernel.h"
#include "quire/ops/math/rows.h"

namespace quire::kernel {

void rope_cpu(const Rope& args) {
  const auto rows = QUIRE_FOR_ISA(rope_rows);
  for_rows(args.N, 2 * args.H * args.pairs,
           [&](std::int64_t begin, std::int64_t end) { rows(args, begin, end); });
}

void rope_f64_cpu(const RopeF64& args) {
  for_rows(args.N, 2 * args.H * args.pairs, [&](std::int64_t begin, std::int64_t end) {
    for (std::int64_t n = begin; n < end; ++n) {
      const double position = static_cast<double>(args.positions_N[n]);
      for (std::int64_t i = 0; i < args.pairs; ++i) {
        const double angle = position * args.frequencies[i];
        const double cosine = args.cosine_factor * std::cos(angle);
        const double sine = args.sine_factor * std::sin(angle);
        double* a = args.x_NHK + n * args.row_stride + (args.mate == 1 ? 2 * i : i);
        for (std::int64_t h = 0; h < args.H; ++h, a += args.head_stride) {
          const double x = a[0], y = a[args.mate];
          a[0] = x * cosine - y * sine;
          a[args.mate] = x * sine + y * cosine;
        }
      }
    }
  });
}

}  // namespace quire::kernel

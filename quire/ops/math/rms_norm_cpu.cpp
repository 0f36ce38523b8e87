#include <algorithm>
#include <cmath>

#include "quire/ops/math/numbers.h"
#include "quire/ops/math/rms_norm_kernel.h"
#include "quire/ops/math/rows.h"

namespace quire::kernel {
namespace {

template <class T>
double scale_of(const T* x, std::int64_t D, double epsilon) {
  double sum = 0;
  for (std::int64_t d = 0; d < D; ++d) sum += double{x[d]} * double{x[d]};
  return 1 / std::sqrt(sum / static_cast<double>(D) + epsilon);
}

template <class T>
void backward_row(const RmsNormBackward& args, std::int64_t n) {
  const T* x = static_cast<const T*>(args.x_ND) + n * args.D;
  const T* dout = static_cast<const T*>(args.dout_ND) + n * args.D;
  const T* weight = static_cast<const T*>(args.weight_D);
  T* dx = static_cast<T*>(args.dx_ND) + n * args.D;
  const double scale = scale_of(x, args.D, args.epsilon);
  double along = 0;
  for (std::int64_t d = 0; d < args.D; ++d)
    along += double{dout[d]} * double{weight[d]} * double{x[d]};
  along *= scale * scale / static_cast<double>(args.D);
  for (std::int64_t d = 0; d < args.D; ++d)
    dx[d] = static_cast<T>(scale * (double{dout[d]} * double{weight[d]} - double{x[d]} * along));
  args.scale_N[n] = scale;
}

// The rows' contributions to a block of columns of dweight, in order.
template <class T>
void backward_columns(const RmsNormBackward& args, std::int64_t first, std::int64_t count) {
  double sums[64] = {};
  for (std::int64_t n = 0; n < args.N; ++n) {
    const T* x = static_cast<const T*>(args.x_ND) + n * args.D + first;
    const T* dout = static_cast<const T*>(args.dout_ND) + n * args.D + first;
    for (std::int64_t i = 0; i < count; ++i)
      sums[i] += double{dout[i]} * double{x[i]} * args.scale_N[n];
  }
  T* dweight = static_cast<T*>(args.dweight_D) + first;
  for (std::int64_t i = 0; i < count; ++i) dweight[i] = static_cast<T>(sums[i]);
}

}  // namespace

void rms_norm_cpu(const RmsNorm& args) {
  const auto rows = QUIRE_FOR_ISA(rms_norm_rows);
  for_rows(args.N, args.D, [&](std::int64_t begin, std::int64_t end) { rows(args, begin, end); });
}

void rms_norm_f64_cpu(const RmsNormF64& args) {
  for_rows(args.N, args.D, [&](std::int64_t begin, std::int64_t end) {
    for (std::int64_t n = begin; n < end; ++n) {
      const double* x = args.x_ND + n * args.D;
      const double scale = scale_of(x, args.D, args.epsilon);
      for (std::int64_t d = 0; d < args.D; ++d)
        args.out_ND[n * args.D + d] = x[d] * scale * args.weight_D[d];
    }
  });
}

void rms_norm_backward_cpu(const RmsNormBackward& args) {
  with_floating(args.dtype, [&](auto tag) {
    using T = decltype(tag);
    if constexpr (sizeof(T) >= sizeof(float)) {
      for_rows(args.N, args.D * 3, [&](std::int64_t begin, std::int64_t end) {
        for (std::int64_t n = begin; n < end; ++n) backward_row<T>(args, n);
      });
      for_rows((args.D + 63) / 64, args.N * 64, [&](std::int64_t begin, std::int64_t end) {
        for (std::int64_t block = begin; block < end; ++block)
          backward_columns<T>(args, block * 64, std::min<std::int64_t>(64, args.D - block * 64));
      });
    }
  });
}

}  // namespace quire::kernel

#include <cmath>

#include "quire/ops/math/numbers.h"
#include "quire/ops/math/rows.h"
#include "quire/ops/math/softmax_kernel.h"

namespace quire::kernel {
namespace {

template <class T>
void softmax_row(T* out, const T* x, std::int64_t n, std::int64_t step) {
  Compute<T> largest = widen(x[0]);
  for (std::int64_t i = 1; i < n; ++i) {
    const Compute<T> value = widen(x[i * step]);
    if (value > largest || std::isnan(value)) largest = value;
  }
  double sum = 0;
  for (std::int64_t i = 0; i < n; ++i)
    sum += static_cast<double>(std::exp(widen(x[i * step]) - largest));
  const auto total = static_cast<Compute<T>>(sum);
  for (std::int64_t i = 0; i < n; ++i)
    out[i * step] = narrow<T>(std::exp(widen(x[i * step]) - largest) / total);
}

template <class T>
void softmax_backward_row(T* dx, const T* dout, const T* out, std::int64_t n, std::int64_t step) {
  double sum = 0;
  for (std::int64_t i = 0; i < n; ++i)
    sum += static_cast<double>(widen(out[i * step])) * static_cast<double>(widen(dout[i * step]));
  const auto mean = static_cast<Compute<T>>(sum);
  for (std::int64_t i = 0; i < n; ++i)
    dx[i * step] = narrow<T>(widen(out[i * step]) * (widen(dout[i * step]) - mean));
}

}  // namespace

void softmax_cpu(const Softmax& args) {
  with_floating(args.dtype, [&](auto tag) {
    using T = decltype(tag);
    for_rows(args.outer * args.inner, args.n * 16, [&](std::int64_t begin, std::int64_t end) {
      for (std::int64_t row = begin; row < end; ++row) {
        const std::int64_t at = row / args.inner * args.n * args.inner + row % args.inner;
        softmax_row(static_cast<T*>(args.out) + at, static_cast<const T*>(args.x) + at, args.n,
                    args.inner);
      }
    });
  });
}

void softmax_backward_cpu(const SoftmaxBackward& args) {
  with_floating(args.dtype, [&](auto tag) {
    using T = decltype(tag);
    for_rows(args.outer * args.inner, args.n * 2, [&](std::int64_t begin, std::int64_t end) {
      for (std::int64_t row = begin; row < end; ++row) {
        const std::int64_t at = row / args.inner * args.n * args.inner + row % args.inner;
        softmax_backward_row(static_cast<T*>(args.dx) + at, static_cast<const T*>(args.dout) + at,
                             static_cast<const T*>(args.out) + at, args.n, args.inner);
      }
    });
  });
}

}  // namespace quire::kernel

#include <cmath>
#include <cstring>

#include "quire/ops/math/numbers.h"
#include "quire/ops/math/reduce_kernel.h"
#include "quire/ops/math/rows.h"

namespace quire::kernel {
namespace {

// This many neighbouring columns go through memory together.
constexpr std::int64_t kColumns = 64;

double finish(Reduction reduction, double sum, std::int64_t n) {
  if (reduction == Reduction::kMean) return sum / static_cast<double>(n);
  return reduction == Reduction::kNorm ? std::sqrt(sum) : sum;
}

template <class T>
void add_columns(const ReduceRows& args, std::int64_t o, std::int64_t first, std::int64_t count) {
  double sums[kColumns] = {};
  const T* x = static_cast<const T*>(args.x) + o * args.n * args.inner + first;
  const bool squares = args.reduction == Reduction::kNorm;
  for (std::int64_t r = 0; r < args.n; ++r, x += args.inner) {
    for (std::int64_t i = 0; i < count; ++i) {
      const double value = static_cast<double>(widen(x[i]));
      sums[i] += squares ? value * value : value;
    }
  }
  T* out = static_cast<T*>(args.out) + o * args.inner + first;
  for (std::int64_t i = 0; i < count; ++i)
    out[i] = narrow<T>(static_cast<Compute<T>>(finish(args.reduction, sums[i], args.n)));
}

template <class T>
void max_columns(const ReduceRows& args, std::int64_t o, std::int64_t first, std::int64_t count) {
  const T* x = static_cast<const T*>(args.x) + o * args.n * args.inner + first;
  T* out = static_cast<T*>(args.out) + o * args.inner + first;
  std::int64_t* index = args.index + o * args.inner + first;
  for (std::int64_t i = 0; i < count; ++i) {
    out[i] = x[i];
    index[i] = 0;
  }
  for (std::int64_t r = 1; r < args.n; ++r) {
    x += args.inner;
    for (std::int64_t i = 0; i < count; ++i) {
      const Compute<T> best = widen(out[i]), value = widen(x[i]);
      if (value > best || (std::isnan(value) && !std::isnan(best))) {
        out[i] = x[i];
        index[i] = r;
      }
    }
  }
}

}  // namespace

void reduce_rows_cpu(const ReduceRows& args) {
  const std::int64_t blocks = (args.inner + kColumns - 1) / kColumns;
  with_floating(args.dtype, [&](auto tag) {
    using T = decltype(tag);
    const auto body = [&](std::int64_t begin, std::int64_t end) {
      for (std::int64_t piece = begin; piece < end; ++piece) {
        const std::int64_t first = piece % blocks * kColumns;
        const std::int64_t count = std::min(kColumns, args.inner - first);
        const auto columns = args.reduction == Reduction::kMax ? max_columns<T> : add_columns<T>;
        columns(args, piece / blocks, first, count);
      }
    };
    for_rows(args.outer * blocks, args.n * std::min(kColumns, args.inner), body);
  });
}

void norm_backward_cpu(const NormBackward& args) {
  with_floating(args.dtype, [&](auto tag) {
    using T = decltype(tag);
    const auto body = [&](std::int64_t begin, std::int64_t end) {
      for (std::int64_t row = begin; row < end; ++row) {
        const std::int64_t from = row / args.n * args.inner;
        const T* dout = static_cast<const T*>(args.dout) + from;
        const T* out = static_cast<const T*>(args.out) + from;
        const T* x = static_cast<const T*>(args.x) + row * args.inner;
        T* dx = static_cast<T*>(args.dx) + row * args.inner;
        for (std::int64_t i = 0; i < args.inner; ++i) {
          const Compute<T> length = widen(out[i]);
          dx[i] = narrow<T>(length == 0 ? 0 : widen(dout[i]) * (widen(x[i]) / length));
        }
      }
    };
    for_rows(args.outer * args.n, args.inner * 4, body);
  });
}

std::int64_t max_backward_cpu(const MaxBackward& args) {
  const std::int64_t count = args.outer * args.inner;
  for (std::int64_t at = 0; at < count; ++at)
    if (args.index[at] < 0 || args.index[at] >= args.n) return at;
  for (std::int64_t at = 0; at < count; ++at) {
    const std::int64_t to =
        (at / args.inner * args.n + args.index[at]) * args.inner + at % args.inner;
    const auto bytes = static_cast<std::int64_t>(args.element_bytes);
    std::memcpy(args.dx + to * bytes, args.dout + at * bytes, args.element_bytes);
  }
  return -1;
}

}  // namespace quire::kernel

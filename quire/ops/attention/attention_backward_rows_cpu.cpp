// What backward needs of each row before the keys, and the gradients that are sums over rows.

#include <cmath>
#include <cstdint>
#include <limits>

#include "quire/base/thread_pool.h"
#include "quire/ops/attention/attention_backward_kernel.h"

namespace quire::kernel {
namespace {

/// Rows of one piece.
constexpr std::int64_t kRowsAtOnce = 256;

template <class F>
void each_row(std::int64_t rows, F&& f) {
  thread_pool().run((rows + kRowsAtOnce - 1) / kRowsAtOnce, [&](std::int64_t piece) {
    const std::int64_t end = (piece + 1) * kRowsAtOnce;
    for (std::int64_t n = piece * kRowsAtOnce; n < (end < rows ? end : rows); ++n) f(n);
  });
}

}  // namespace

void row_statistics_cpu(const RowStatistics& a) {
  const auto product = QUIRE_FOR_ISA(row_product);
  const auto bytes = [](DType dtype) { return dtype == DType::kF32 ? 4 : 2; };
  each_row(a.rows, [&](std::int64_t n) {
    const bool empty = a.lse_NH[n] == -std::numeric_limits<float>::infinity();
    a.base_NH[n] = empty ? std::numeric_limits<float>::infinity() : a.lse_NH[n];
    a.delta_NH[n] =
        empty ? 0.0f
              : product({a.dout_NHU + n * a.U * bytes(a.dout_dtype),
                         a.out_NHU + n * a.U * bytes(a.out_dtype), a.dout_dtype, a.out_dtype},
                        a.U);
    if (!empty && a.dlse_NH != nullptr) a.delta_NH[n] -= a.dlse_NH[n];
  });
}

void row_statistics_f64_cpu(const double* dout_NHU, const double* out_NHU, const double* dlse_NH,
                            std::int64_t rows, std::int64_t U, double* delta_NH) {
  each_row(rows, [&](std::int64_t n) {
    double sum = dlse_NH == nullptr ? 0 : -dlse_NH[n];
    for (std::int64_t u = 0; u < U; ++u) sum += dout_NHU[n * U + u] * out_NHU[n * U + u];
    delta_NH[n] = sum;
  });
}

template <class T>
void add_sums_over_rows_cpu(const SumsOverRows<T>& a) {
  for (std::int64_t h = 0; h < a.H; ++h) {
    double slope = 0, sink = 0;
    for (std::int64_t n = h; n < a.N * a.H; n += a.H) {
      if (a.dslope_NH != nullptr) slope += static_cast<double>(a.dslope_NH[n]);
      // The sink is a key of value 0: dout·v − D is −D. (A row that sees nothing has no sink.)
      const auto lse = static_cast<double>(a.lse_NH[n]);
      if (a.dsink_H != nullptr && std::isfinite(lse))
        sink -= std::exp(double{a.sink_H[h]} - lse) * static_cast<double>(a.delta_NH[n]);
    }
    if (a.dslope_NH != nullptr) a.dslope_H[h] += static_cast<float>(slope);
    if (a.dsink_H != nullptr) a.dsink_H[h] += static_cast<float>(sink);
  }
}
template void add_sums_over_rows_cpu(const SumsOverRows<float>&);
template void add_sums_over_rows_cpu(const SumsOverRows<double>&);

template <class T>
void add_parts_cpu(const T* parts, std::int64_t part, std::int64_t count, float* out) {
  for (std::int64_t i = 0; i < part; ++i) {
    double sum = 0;
    for (std::int64_t p = 0; p < count; ++p) sum += static_cast<double>(parts[p * part + i]);
    out[i] += static_cast<float>(sum);
  }
}
template void add_parts_cpu(const float*, std::int64_t, std::int64_t, float*);
template void add_parts_cpu(const double*, std::int64_t, std::int64_t, float*);

}  // namespace quire::kernel

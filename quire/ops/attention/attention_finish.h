#pragma once

// What attention's drivers do with a running softmax when a row has seen all of its keys.

#include <cmath>
#include <cstdint>
#include <limits>
#include <vector>

#include "quire/ops/attention/attention_kernel.h"

namespace quire::kernel {

/// out and lse of `rows` from their state. A sink is one more key without a value; then the
/// division.
static inline void finish_rows(const AttentionForward& a, const AttentionRows& rows,
                               const SoftmaxState& state) {
  const std::int64_t group = a.H / a.kv.G, width = (a.kv.U + 15) / 16 * 16;
  std::vector<float> nothing(a.spec.sink_H == nullptr ? 0 : static_cast<std::size_t>(width), 0.0f);
  for (std::int64_t r = 0; r < (rows.last - rows.first) * group; ++r) {
    const std::int64_t h = rows.g * group + r % group;
    const std::int64_t n = a.start_J[rows.b] + rows.first + r / group;
    const SoftmaxState row{state.max_R + r, state.sum_R + r, state.out_RU + r * width};
    // (A sink of −inf is none.)
    if (a.spec.sink_H != nullptr && a.spec.sink_H[h] != -std::numeric_limits<float>::infinity()) {
      float sink = a.spec.sink_H[h], one = 1.0f;
      QUIRE_FOR_ISA(merge_states)(row, {&sink, &one, nothing.data()}, 1, width);
    }
    QUIRE_FOR_ISA(finish_row)
    (row.out_RU, *row.sum_R, a.kv.U, a.out_NHU + (n * a.H + h) * a.kv.U);
    a.lse_NH[n * a.H + h] = *row.sum_R == 0.0f
                                ? -std::numeric_limits<float>::infinity()
                                : static_cast<float>(static_cast<double>(*row.max_R) +
                                                     std::log(static_cast<double>(*row.sum_R)));
  }
}

}  // namespace quire::kernel

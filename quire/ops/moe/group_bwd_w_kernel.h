#pragma once

#include <cstdint>

#include "quire/base/dtype_enum.h"
#include "quire/ops/matmul/grouped_kernel.h"

namespace quire::kernel {

/// out[e] = Σ_m factor[factor_row(m)] · y[y_row(m)] over the rows of each group; f32 or f64.
struct GroupedSum {
  const std::int64_t* start_J;
  std::int64_t E, F;
  DType dtype;
  const void* y;
  RowMap y_row;
  const void* factor;  // or null: 1
  RowMap factor_row;
  void* out;  // [E, F]
};
void grouped_sum_cpu(const GroupedSum& args);

}  // namespace quire::kernel

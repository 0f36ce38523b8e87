#pragma once

#include <cstdint>

#include "quire/base/dtype_enum.h"
#include "quire/base/isa.h"
#include "quire/ops/matmul/grouped_kernel.h"

namespace quire::kernel {

/// out[n] = Σ_c factor[factor_row(n · C + c)] · rows[row(n · C + c)]; f32 or f64.
struct Combine {
  DType dtype;
  void* out;         // [N, D]
  const void* rows;  // D apart
  RowMap row;
  const void* factor;  // or null: 1
  RowMap factor_row;
  std::int64_t N, C, D;
};
void combine_cpu(const Combine& args);

/// out[out_row(m)] = <a[a_row(m)], b[b_row(m)]> for m < M; f32 or f64.
struct RowDots {
  DType dtype;
  void* out;
  RowMap out_row;
  const void* a;
  RowMap a_row;
  const void* b;
  RowMap b_row;
  std::int64_t M, D;
  bool add;  // to what stands in out
};
void row_dots_cpu(const RowDots& args);

/// out = Σ_c factor[c] · rows[c], D floats; without factors, the sum.
struct CombineRow {
  float* out;
  const float* const* rows;
  const float* factor;
  std::int64_t C, D;
};
QUIRE_DECLARE_KERNEL(void, combine_row, const CombineRow& args)
QUIRE_DECLARE_KERNEL(float, row_dot, const float* a, const float* b, std::int64_t D)

}  // namespace quire::kernel

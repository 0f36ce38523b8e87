#pragma once

#include <cstddef>
#include <cstdint>

#include "quire/base/dtype_enum.h"
#include "quire/base/isa.h"

namespace quire::kernel {

/// Where row m of a list stands in memory: at its slot over `fan`, or, without slots, at m.
struct RowMap {
  const std::int64_t* slot = nullptr;
  std::int64_t fan = 1;
  std::int64_t operator()(std::int64_t m) const { return slot == nullptr ? m : slot[m] / fan; }
};

/// E matrices of K inputs × M outputs: dense with strides in elements (k_step or m_step is 1), or
/// block types in panels (weight.h), one pointer a group. A panel's 16 rows are outputs, or inputs
/// when `turned`.
struct GroupedWeight {
  DType dtype = DType::kF32;
  const void* data = nullptr;
  std::int64_t e_step = 0, k_step = 0, m_step = 0;
  int type = -1;  // WeightType as a number, or -1: dense
  const std::byte* const* panels = nullptr;
  bool turned = false;
};

/// out[out_row(m)] = x[x_row(m)] · weight[e] + bias[e] for start[e] <= m < start[e + 1].
struct GroupedProduct {
  const std::int64_t* start_J;
  std::int64_t E, K, M;
  DType dtype;    // of x: f32 or f64
  const void* x;  // rows K apart
  RowMap x_row;
  GroupedWeight weight;  // f64 with f64 x, else any other
  const void* bias;      // [E, M] of x's dtype, or null
  DType out_dtype;
  void* out;  // rows M apart
  RowMap out_row;
};
void grouped_product_cpu(const GroupedProduct& args);

/// out[e] = Σ_m x[x_row(m)]ᵀ · (c · y[y_row(m)]) for start[e] <= m < start[e + 1], where c is
/// factor[factor_row(m)] or 1; zeros for an empty group.
struct GroupedOuter {
  const std::int64_t* start_J;
  std::int64_t E, K, M;
  DType dtype;  // of x, y and factor: f32 or f64
  const void* x;
  RowMap x_row;
  const void* y;
  RowMap y_row;
  const void* factor;
  RowMap factor_row;
  DType out_dtype;
  void* out;  // [E, K, M]
};
void grouped_outer_cpu(const GroupedOuter& args);

/// The inputs of a block of weights that are packed at once, and its outputs.
inline constexpr std::int64_t kGroupedDepth = 128;
inline constexpr std::int64_t kGroupedColumns = 64;

/// Up to 64 columns of one group's matrix, and what follows it in the order of work.
struct WeightBlock {
  DType dtype;
  const std::byte* data;              // dense: input 0 of the first column
  std::int64_t k_step, m_step;        // dense: bytes
  int type;                           // as in GroupedWeight
  const std::byte* panels;            // of the group
  std::int64_t panel_columns, first;  // inner size of a panel; the first column
  bool turned;
  std::int64_t columns;
  const std::byte* next;  // dense: the block that comes next, or null
};

/// Columns [first, first + columns) of group e's matrix; `next` is null.
WeightBlock weight_block(const GroupedProduct& args, std::int64_t e, std::int64_t first,
                         std::int64_t columns);

/// Some rows of one group times one block.
struct GroupedBlock {
  const float* const* x;  // each row's inputs
  void* const* out;       // each row's outputs, from the first column of the block
  std::int64_t rows, K;
  WeightBlock weight;
  const float* bias;  // from the first column, or null
  DType out_dtype;
  float* packed;  // kGroupedDepth · 64
  float* sums;    // rows · 64
};

/// x[n][k .. k + rows_K) ⊗ y[n] summed over n: `add` to what stands in out.
struct OuterBlock {
  const float* const* x;
  std::int64_t first, inputs;  // of x's columns
  const float* packed;         // [count, 64]
  std::int64_t count, columns;
  float* out;
  std::int64_t out_step;
  bool add;
};

QUIRE_DECLARE_KERNEL(void, grouped_block, const GroupedBlock& block)
QUIRE_DECLARE_KERNEL(void, outer_block, const OuterBlock& block)
/// `columns` floats of each of `count` rows as packed rows of 64, times the row's factor.
QUIRE_DECLARE_KERNEL(void, pack_rows, float* packed, const float* const* rows, const float* factor,
                     std::int64_t count, std::int64_t columns)
/// `count` floats, rounded once to a shorter type.
QUIRE_DECLARE_KERNEL(void, narrow_floats, void* out, const float* x, std::int64_t count,
                     DType dtype)

}  // namespace quire::kernel

#pragma once

// What the ops of this room share: how rows are stored and computed with.

#include "quire/ops/math/broadcast.h"
#include "quire/ops/matmul/grouped_kernel.h"
#include "quire/ops/moe/expert_activation.h"
#include "quire/ops/moe/expert_activation_kernel.h"
#include "quire/ops/moe/scatter2scatter.h"
#include "quire/tensor/tensor.h"

namespace quire::moe {

/// f64 computes as itself, all others as f32.
inline DType computed_in(DType dtype) { return dtype == DType::kF64 ? dtype : DType::kF32; }
/// Row-major, in the dtype that kernels compute with.
inline Tensor computed(const Tensor& x) {
  return (x.dtype() == computed_in(x.dtype()) ? x : x.to(DType::kF32)).contiguous_copy();
}
inline Tensor stored(const Tensor& x, DType dtype) { return x.dtype() == dtype ? x : x.to(dtype); }

/// Row m of the order: at its slot over fan, or at m.
inline kernel::RowMap row_map(const ExpertOrder& order, RowOrder rows, std::int64_t fan = 1) {
  if (rows == RowOrder::kGrouped) return {};
  return {.slot = order.slot_M().data<std::int64_t>(), .fan = fan};
}

/// The rows of a tensor that stands in this order: `fan` slots share a scattered one.
inline std::int64_t row_count(const ExpertOrder& order, RowOrder rows, std::int64_t fan = 1) {
  return rows == RowOrder::kGrouped ? order.rows() : order.slots() / fan;
}

void check_rows(const char* name, const Tensor& x, std::int64_t rows, std::int64_t columns);
void check_fan(const ExpertOrder& order, RowOrder rows, std::int64_t fan);

/// The weights for a kernel; `panels` keeps the pointers.
kernel::GroupedWeight plain(const ExpertWeights& weights, std::vector<const std::byte*>& panels);

/// x[in] · weight (+ bias) to rows of the dtype that x (already `computed`) has.
struct Product {
  const Tensor& x;
  const ExpertWeights& weight;
  const ExpertOrder& order;
  RowOrder in, out;
  std::int64_t fan;
  const Tensor* bias = nullptr;
};
Tensor product(const Product& args, DType out_dtype);

/// The arguments of that product for a kernel, without its output; `panels` and `bias` keep what
/// they point to.
kernel::GroupedProduct plain(const Product& args, std::vector<const std::byte*>& panels,
                             Tensor& bias);

/// An activation of `width` columns for a kernel. Throws for an odd number of columns of pairs.
kernel::ActivationRows activation_rows(const ExpertActivation& activation, std::int64_t M,
                                       std::int64_t width);

/// The checks of scattered_experts without gates.
void check_scattered_experts(const Tensor& x, const ExpertLayer& experts, const ExpertOrder& order,
                             const ScatterSpec& spec);

}  // namespace quire::moe

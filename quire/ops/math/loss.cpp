#include "quire/ops/math/loss.h"

#include "quire/ops/math/broadcast.h"
#include "quire/ops/math/loss_kernel.h"
#include "quire/tensor/dims.h"

namespace quire {
namespace {

// The targets as i64, checked; counts the rows that are not ignored.
Tensor checked_targets(const Tensor& target_N, std::int64_t V, std::int64_t ignore,
                       std::int64_t& rows) {
  QUIRE_CHECK(target_N.dtype() == DType::kI64 || target_N.dtype() == DType::kI32, "target_N is ",
              to_string(target_N.dtype()), ", expected i64 or i32");
  Tensor targets =
      target_N.dtype() == DType::kI64 ? target_N.contiguous_copy() : target_N.to(DType::kI64);
  const std::int64_t* at = targets.data<std::int64_t>();
  rows = 0;
  for (std::int64_t n = 0; n < targets.elements(); ++n) {
    if (at[n] == ignore) continue;
    ++rows;
    QUIRE_CHECK(at[n] >= 0 && at[n] < V, "target_N[", n, "] is ", at[n],
                ", but logits_NV has V = ", V);
  }
  return targets;
}

}  // namespace

CrossEntropy cross_entropy(const Tensor& logits_NV, const Tensor& target_N, std::int64_t ignore) {
  const Dims dims = QUIRE_DIMS(logits_NV, target_N);
  check_floating("cross_entropy", "logits_NV", logits_NV);
  std::int64_t rows = 0;
  const Tensor targets = checked_targets(target_N, dims['V'], ignore, rows);
  const Tensor logits = logits_NV.contiguous_copy();
  CrossEntropy out{Tensor::empty({}, logits.dtype(), logits.device()),
                   Tensor::zeros({dims['N']}, DType::kF64, logits.device())};
  kernel::cross_entropy_cpu({.dtype = logits.dtype(),
                             .loss = out.loss.mutable_data<void>(),
                             .lse_N = out.lse_N.mutable_data<double>(),
                             .logits_NV = logits.data<void>(),
                             .target_N = targets.data<std::int64_t>(),
                             .N = dims['V'] == 0 ? 0 : dims['N'],
                             .V = dims['V'],
                             .ignore = ignore,
                             .rows = rows});
  return out;
}

Tensor cross_entropy_backward(const Tensor& dloss, const Tensor& logits_NV, const Tensor& target_N,
                              const Tensor& lse_N, std::int64_t ignore) {
  const Dims dims = QUIRE_DIMS(logits_NV, target_N, lse_N);
  check_floating("cross_entropy_backward", "logits_NV", logits_NV);
  check_same_dtype("cross_entropy_backward", "dloss", dloss, "logits_NV", logits_NV);
  QUIRE_CHECK(dloss.elements() == 1, "cross_entropy_backward: dloss has shape ",
              to_string(dloss.shape()), ", expected one element");
  QUIRE_CHECK(lse_N.dtype() == DType::kF64, "lse_N is ", to_string(lse_N.dtype()),
              ", expected f64");
  std::int64_t rows = 0;
  const Tensor targets = checked_targets(target_N, dims['V'], ignore, rows);
  const Tensor logits = logits_NV.contiguous_copy(), lse = lse_N.contiguous_copy();
  Tensor dlogits = Tensor::empty(logits.shape(), logits.dtype(), logits.device());
  if (dlogits.elements() == 0) return dlogits;
  kernel::cross_entropy_backward_cpu({.dtype = logits.dtype(),
                                      .dlogits_NV = dlogits.mutable_data<void>(),
                                      .dloss = dloss.data<void>(),
                                      .logits_NV = logits.data<void>(),
                                      .target_N = targets.data<std::int64_t>(),
                                      .lse_N = lse.data<double>(),
                                      .N = dims['N'],
                                      .V = dims['V'],
                                      .ignore = ignore,
                                      .rows = rows});
  return dlogits;
}

}  // namespace quire

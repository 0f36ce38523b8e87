#include "quire/ops/moe/group.h"

#include "quire/ops/moe/group_kernel.h"
#include "quire/ops/moe/rows.h"
#include "quire/tensor/dims.h"

namespace quire {
namespace {

Tensor gathered(const Tensor& a, const ExpertOrder& order, std::int64_t fan, const Tensor* factor) {
  check_floating("group", "a", a);
  moe::check_fan(order, RowOrder::kScattered, fan);
  QUIRE_CHECK(a.rank() == 2, "group: a has rank ", a.rank(), ", expected 2");
  moe::check_rows("a", a, order.slots() / fan, a.size(1));
  const Tensor rows = moe::computed(a);
  Tensor out = Tensor::empty({order.rows(), a.size(1)}, rows.dtype(), a.device());
  const Tensor factors = factor == nullptr ? Tensor() : moe::computed(*factor);
  kernel::combine_cpu({.dtype = rows.dtype(),
                       .out = out.mutable_data<void>(),
                       .rows = rows.data<void>(),
                       .row = moe::row_map(order, RowOrder::kScattered, fan),
                       .factor = factor == nullptr ? nullptr : factors.data<void>(),
                       .factor_row = moe::row_map(order, RowOrder::kScattered),
                       .N = out.size(0),
                       .C = 1,
                       .D = out.size(1)});
  return moe::stored(out, a.dtype());
}

Tensor combined(const Tensor& rows, std::int64_t C, const Tensor* gates) {
  check_floating("combine", "rows", rows);
  QUIRE_CHECK(rows.rank() == 2, "combine: rows has rank ", rows.rank(), ", expected 2");
  QUIRE_CHECK(C > 0 && rows.size(0) % C == 0, "combine: rows has ", rows.size(0),
              " rows, expected a multiple of C = ", C);
  const Tensor from = moe::computed(rows);
  Tensor out = Tensor::empty({rows.size(0) / C, rows.size(1)}, from.dtype(), rows.device());
  const Tensor factors = gates == nullptr ? Tensor() : moe::computed(*gates);
  kernel::combine_cpu({.dtype = from.dtype(),
                       .out = out.mutable_data<void>(),
                       .rows = from.data<void>(),
                       .row = {},
                       .factor = gates == nullptr ? nullptr : factors.data<void>(),
                       .factor_row = {},
                       .N = out.size(0),
                       .C = C,
                       .D = out.size(1)});
  return moe::stored(out, rows.dtype());
}

}  // namespace

Tensor group(const Tensor& a, const ExpertOrder& order, std::int64_t fan) {
  return gathered(a, order, fan, nullptr);
}

Tensor group(const Tensor& a, const ExpertOrder& order, std::int64_t fan, const Tensor& factor) {
  check_same_dtype("group", "factor", factor, "a", a);
  QUIRE_CHECK(factor.elements() == order.slots(), "group: factor has ", factor.elements(),
              " numbers, expected one for each of the ", order.slots(), " slots");
  return gathered(a, order, fan, &factor);
}

Tensor combine(const Tensor& rows, const Tensor& gates_NC) {
  const Dims dims = QUIRE_DIMS(gates_NC);
  check_same_dtype("combine", "rows", rows, "gates_NC", gates_NC);
  QUIRE_CHECK(rows.rank() == 2 && rows.size(0) == gates_NC.elements(), "combine: rows has shape ",
              to_string(rows.shape()), ", expected one for each of the ", gates_NC.elements(),
              " gates");
  return combined(rows, dims['C'], &gates_NC);
}

Tensor combine(const Tensor& rows, std::int64_t C) { return combined(rows, C, nullptr); }

}  // namespace quire

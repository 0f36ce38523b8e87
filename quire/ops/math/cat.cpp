#include "quire/ops/math/cat.h"

#include "quire/base/checked.h"
#include "quire/ops/math/broadcast.h"
#include "quire/ops/math/cat_kernel.h"

namespace quire {
namespace {

Shape joined_shape(std::span<const Tensor> parts, int dim) {
  Shape shape = parts[0].shape();
  const auto at = static_cast<std::size_t>(dim);
  for (std::size_t i = 1; i < parts.size(); ++i) {
    const Tensor& part = parts[i];
    QUIRE_CHECK(part.dtype() == parts[0].dtype(), "cat: parts[", i, "] is ",
                to_string(part.dtype()), ", but parts[0] is ", to_string(parts[0].dtype()));
    QUIRE_CHECK(part.rank() == parts[0].rank(), "cat: parts[", i, "] has rank ", part.rank(),
                ", but parts[0] has rank ", parts[0].rank());
    for (int d = 0; d < part.rank(); ++d) {
      QUIRE_CHECK(d == dim || part.size(d) == parts[0].size(d), "cat: dimension ", d, " of parts[",
                  i, "] is ", part.size(d), ", but of parts[0] it is ", parts[0].size(d));
    }
    const auto size = Checked(static_cast<std::uint64_t>(shape[at])) +
                      Checked(static_cast<std::uint64_t>(part.size(dim)));
    QUIRE_CHECK(size.at_most(INT64_MAX), "cat: the sizes along dimension ", dim,
                " add up to more than 2^63");
    shape[at] = static_cast<std::int64_t>(*size.value());
  }
  return shape;
}

}  // namespace

Tensor cat(std::span<const Tensor> parts, int dim) {
  QUIRE_CHECK(!parts.empty(), "cat: no parts");
  QUIRE_CHECK(parts[0].rank() > 0, "cat: parts[0] has rank 0, expected at least 1");
  dim = wrapped_dim("cat", dim, parts[0].rank());
  Tensor out = Tensor::empty(joined_shape(parts, dim), parts[0].dtype(), parts[0].device());
  if (out.elements() == 0) return out;
  const Split whole = split_at(out.shape(), dim);
  const auto element = static_cast<std::int64_t>(size_of(out.dtype()));
  auto* to = static_cast<std::byte*>(out.mutable_data<void>());
  for (const Tensor& part : parts) {
    const Tensor rows = part.contiguous_copy();
    const std::int64_t run_bytes = part.size(dim) * whole.inner * element;
    if (run_bytes == 0) continue;
    kernel::cat_part_cpu({.out = to,
                          .part = static_cast<const std::byte*>(rows.data<void>()),
                          .rows = whole.outer,
                          .run_bytes = run_bytes,
                          .step_bytes = whole.n * whole.inner * element});
    to += run_bytes;
  }
  return out;
}

}  // namespace quire

#include "quire/ops/index/repeat_interleave.h"

#include <limits>

#include "quire/base/checked.h"
#include "quire/base/error.h"
#include "quire/ops/index/index_check.h"
#include "quire/ops/index/index_select.h"

namespace quire {
namespace {

std::int64_t flat_size(const Shape& shape) {
  std::int64_t elements = 1;
  for (const std::int64_t size : shape) elements *= size;
  return elements;
}

// i64 and contiguous; rank 0 or 1, nothing negative.
Tensor check_repeats(const Tensor& repeats) {
  detail::check_index_dtype(repeats, "repeats");
  QUIRE_CHECK(repeats.rank() <= 1, "repeats: rank is ", repeats.rank(), ", expected 0 or 1");
  Tensor wide = detail::at_least_1d(detail::widen_index(repeats)).contiguous_copy();
  for (std::int64_t n = 0; n < wide.elements(); ++n) {
    const std::int64_t value = wide.data<std::int64_t>()[n];
    QUIRE_CHECK(value >= 0, "repeats[", n, "] is ", value, ", expected at least 0");
  }
  return wide;
}

// The slice that each repetition comes from; `slices` slices, or as many as there are repeats.
Tensor sources(const Tensor& repeats, std::int64_t slices,
               std::optional<std::int64_t> output_size) {
  const std::int64_t* count = repeats.data<std::int64_t>();
  const bool shared = repeats.elements() == 1;
  Checked total = 0;
  for (std::int64_t n = 0; n < slices; ++n)
    total = total + static_cast<std::uint64_t>(count[shared ? 0 : n]);
  constexpr auto kMost = static_cast<std::uint64_t>(std::numeric_limits<std::int64_t>::max());
  QUIRE_CHECK(total.at_most(kMost), "repeats add up to more than 2^63 - 1");
  const auto size = static_cast<std::int64_t>(*total.value());
  QUIRE_CHECK(!output_size || *output_size == size, "output_size is ", output_size.value_or(0),
              ", but the repeats add up to ", size);
  Tensor out = Tensor::empty({size}, DType::kI64);
  std::int64_t* next = size == 0 ? nullptr : out.mutable_data<std::int64_t>();
  for (std::int64_t n = 0; n < slices; ++n) {
    for (std::int64_t i = count[shared ? 0 : n]; i > 0; --i) *next++ = n;
  }
  return out;
}

// The index to select by, for a tensor of this shape.
Tensor select_index(const Shape& shape, const Tensor& repeats, int at,
                    std::optional<std::int64_t> output_size) {
  const Tensor wide = check_repeats(repeats);
  const std::int64_t slices = shape.empty() ? 1 : shape[static_cast<std::size_t>(at)];
  QUIRE_CHECK(wide.elements() == 1 || wide.elements() == slices, "repeats: size is ",
              wide.elements(), ", but x has ", slices, " slices at dim ", at, ": expected 1 or ",
              slices);
  return sources(wide, slices, output_size);
}

Tensor one(std::int64_t repeats) { return Tensor::of<std::int64_t>(std::span(&repeats, 1), {1}); }

}  // namespace

Tensor repeat_interleave(const Tensor& x, const Tensor& repeats_N, std::optional<int> dim,
                         std::optional<std::int64_t> output_size) {
  const Tensor from = dim && x.rank() > 0 ? x : x.contiguous_copy().view({x.elements()});
  const int at = dim ? detail::wrap_dim(*dim, x.rank()) : 0;
  return index_select(from, at, select_index(from.shape(), repeats_N, at, output_size));
}

Tensor repeat_interleave(const Tensor& x, std::int64_t repeats, std::optional<int> dim,
                         std::optional<std::int64_t> output_size) {
  QUIRE_CHECK(repeats >= 0, "repeats is ", repeats, ", expected at least 0");
  return repeat_interleave(x, one(repeats), dim, output_size);
}

Tensor repeat_interleave_index(const Tensor& repeats_N, std::optional<std::int64_t> output_size) {
  QUIRE_CHECK(repeats_N.rank() == 1, "repeats: rank is ", repeats_N.rank(), ", expected 1");
  const Tensor wide = check_repeats(repeats_N);
  return sources(wide, wide.elements(), output_size);
}

Tensor repeat_interleave_backward(const Tensor& dout, const Shape& x_shape, const Tensor& repeats_N,
                                  std::optional<int> dim) {
  detail::check_floating(dout, "dout");
  const Shape from = dim && !x_shape.empty() ? x_shape : Shape{flat_size(x_shape)};
  const int at = dim ? detail::wrap_dim(*dim, static_cast<int>(x_shape.size())) : 0;
  const Tensor index = select_index(from, repeats_N, at, std::nullopt);
  return index_select_backward(dout, from, at, index).view(x_shape);
}

Tensor repeat_interleave_backward(const Tensor& dout, const Shape& x_shape, std::int64_t repeats,
                                  std::optional<int> dim) {
  QUIRE_CHECK(repeats >= 0, "repeats is ", repeats, ", expected at least 0");
  return repeat_interleave_backward(dout, x_shape, one(repeats), dim);
}

}  // namespace quire

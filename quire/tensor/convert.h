#pragma once

#include <cstddef>
#include <cstdint>
#include <span>

#include "quire/base/dtype.h"

namespace quire::detail {

/// Copies the elements of a strided array of `size`-byte elements, row-major, into `out`.
void gather_strided(std::byte* out, const std::byte* in, std::size_t size,
                    std::span<const std::int64_t> shape, std::span<const std::int64_t> strides);

/// out[i] = in[i] in another dtype, as Tensor::to says. Throws ArgumentError.
void convert(void* out, DType to, const void* in, DType from, std::int64_t count);

}  // namespace quire::detail

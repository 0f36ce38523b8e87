#pragma once

#include <cstddef>
#include <cstdint>

#include "quire/base/dtype_enum.h"

namespace quire::kernel {

enum class Reduction : std::uint8_t { kSum, kMean, kNorm, kMax };

/// out[o, i] = reduction over r of x[o, r, i]; all row-major.
struct ReduceRows {
  Reduction reduction;
  DType dtype;
  void* out;
  std::int64_t* index;  // kMax only
  const void* x;
  std::int64_t outer, n, inner;
};

void reduce_rows_cpu(const ReduceRows& args);

/// dx[o, r, i] = dout[o, i] · x[o, r, i] / out[o, i], 0 where out is 0.
struct NormBackward {
  DType dtype;
  void* dx;
  const void* dout;
  const void* x;
  const void* out;
  std::int64_t outer, n, inner;
};

void norm_backward_cpu(const NormBackward& args);

/// dx[o, index[o, i], i] = dout[o, i]; elements of `element_bytes` bytes, dx zeroed before.
struct MaxBackward {
  std::size_t element_bytes;
  std::byte* dx;
  const std::byte* dout;
  const std::int64_t* index;
  std::int64_t outer, n, inner;
};

/// The first position of an index out of range, or -1; nothing is written then.
std::int64_t max_backward_cpu(const MaxBackward& args);

}  // namespace quire::kernel

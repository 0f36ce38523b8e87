#pragma once

#include <cstdint>

namespace quire {

/// Element types of tensors. Quantized weights are a type of their own: quire/ops/matmul/weight.h.
/// The last three are forms of stored keys and values only (quire/ops/attention/kv_format.h): no
/// tensor has them. Alone in this header, so that kernels see it without seeing anything else.
enum class DType : std::uint8_t {
  kF64,
  kF32,
  kBF16,
  kF16,
  kI64,
  kI32,
  kI16,
  kI8,
  kU8,
  kBool,
  kI4,
  kI4H,
  kI8H
};

}  // namespace quire

#pragma once

#include <cstddef>
#include <cstdint>
#include <string_view>

namespace quire {

/// Element types of tensors. Quantized weights are a type of their own: quire/ops/matmul/weight.h.
enum class DType : std::uint8_t { kF64, kF32, kBF16, kF16, kI64, kI32, kI16, kI8, kU8, kBool };

/// Bytes of one element.
std::size_t size_of(DType dtype);

/// "f64", "f32", "bf16", "f16", "i64", "i32", "i16", "i8", "u8", "bool".
std::string_view to_string(DType dtype);

/// True for f64, f32, bf16 and f16.
bool is_floating(DType dtype);

}  // namespace quire

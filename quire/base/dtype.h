#pragma once

#include <cstddef>
#include <string_view>

#include "quire/base/dtype_enum.h"

namespace quire {

/// Bytes of one element; 0 for i4, i4h and i8h, whose elements share theirs (kv_row_bytes).
std::size_t size_of(DType dtype);

/// "f64", "f32", "bf16", "f16", "i64", "i32", "i16", "i8", "u8", "bool", "i4", "i4h", "i8h".
std::string_view to_string(DType dtype);

/// True for f64, f32, bf16 and f16.
bool is_floating(DType dtype);

}  // namespace quire

#pragma once

#include <cstddef>
#include <cstdint>
#include <functional>
#include <string>

#include "quire/base/dtype.h"

namespace quire {

/// The forms in which a cache may store keys and values:
///
///   f32, bf16, f16   numbers
///   i8               rounded to the row's largest magnitude / 127; one f32 scale for each token
///                    and head, apart from the pages
///   i4               4 bits a number in groups of 32 along the head (the last one may be shorter):
///                    low + code · scale, both f16, with low the group's lowest number and scale
///                    (highest − low) / 15; 5 bits a number in all, within the pages
///   i4h              i4, and keys are turned by hadamard() before they are rounded, queries when
///                    they attend: the same scores, and no number that stands out among the keys'
///   i8h              8 bits a number in groups of 32: code · scale, with scale the group's largest
///                    magnitude / 127 in f16, within the pages; keys turned as for i4h. As many
///                    bytes as i8 at 64 numbers a head, and a fifth of its error; i8 is faster,
///                    since it is attended to where it lies
///
/// Numbers beyond f16 become infinite in f16, i4 and i4h; a group of i8h that holds one beyond
/// 127 · 65,504 becomes NaN.
///
/// Source  group-wise affine rounding as in GGUF's Q4_1; rotation: QuaRot (Ashkboos et al. 2024).
inline constexpr DType kKvForms[] = {DType::kF32, DType::kBF16, DType::kF16, DType::kI8,
                                     DType::kI4,  DType::kI4H,  DType::kI8H};
bool stores_kv(DType dtype);
/// Whether keys are turned by hadamard() when they are stored: i4h and i8h.
bool turns_keys(DType dtype);

/// "f32, bf16, f16, i8, i4, i4h, i8h"
std::string kv_formats();

/// Bytes that the key (or value) of one token and head takes in a page: n numbers and what belongs
/// to their groups. Throws ArgumentError unless stores_kv(dtype).
std::int64_t kv_row_bytes(DType dtype, std::int64_t n);
/// Bytes of its scale, which lies apart: 4 of i8, else none.
std::int64_t kv_scale_bytes(DType dtype);
/// Bytes of the keys and values of one token in a layer of G heads, scales included.
std::int64_t kv_bytes_per_token(DType dtype, std::int64_t G, std::int64_t K, std::int64_t U);
/// From one row to the next as PageStrides count: n elements; of i4, i4h and i8h bytes.
std::int64_t kv_row_stride(DType dtype, std::int64_t n);
/// The bytes that PageStrides count in: an element's; of i4, i4h and i8h 1.
std::int64_t kv_unit_bytes(DType dtype);

/// What the stored row of n numbers says, into to[n]; `scale` is its scale where one lies apart.
/// Keys of turns_keys(dtype) stay turned. For moving what is stored; attention reads it itself.
void kv_widen_row(DType dtype, const std::byte* row, std::int64_t n, float scale, float* to);

/// The parts of a block of 16 keys of n numbers: calls part(offset, bytes) for each; lane i has
/// `bytes` of it, `bytes` · i behind `offset`.
void each_kv_lane_part(DType dtype, std::int64_t n,
                       const std::function<void(std::int64_t offset, std::int64_t bytes)>& part);

}  // namespace quire

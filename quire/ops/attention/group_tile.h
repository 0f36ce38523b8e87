#pragma once

// From rows and blocks of i4 (i4_row.h) to floats: low + code · scale, one FMA each, so that every
// way to read a number gives the same bits.

#include "quire/base/dtype_enum.h"
#include "quire/base/half.h"
#include "quire/base/simd.h"
#include "quire/ops/attention/i4_row.h"

// An explicit specialisation takes its linkage from the template.
#define QUIRE_SPECIAL [[gnu::always_inline]] inline

namespace quire::kernel::QUIRE_ISA_NS {

/// The type that stands for i4 where others have a loader of 16 elements.
struct LoadI4 {
  static constexpr std::int64_t kBytes = 1;
};

QUIRE_INLINE bool is_i4(DType dtype) { return dtype == DType::kI4 || dtype == DType::kI4H; }

/// The bytes from one lane's part of a row to the end of the row. (Of others: elements.)
template <class Load>
QUIRE_INLINE std::int64_t stored_bytes(std::int64_t n) {
  return n * Load::kBytes;
}
template <>
QUIRE_SPECIAL std::int64_t stored_bytes<LoadI4>(std::int64_t n) {
  return i4_row_bytes(n);
}

/// A row of n numbers, without reading or writing past them.
QUIRE_INLINE void widen_i4_row(const std::byte* from, std::int64_t n, float* to) {
  std::int64_t k = 0;
  for (; k + kI4Group <= n; k += kI4Group, from += i4_group_bytes(kI4Group)) {
    const F32 scale = repeat_f16(from), low = repeat_f16(from + 2);
    F32 first, second;
    load_nibbles(from + kI4Header, first, second);
    store(to + k, fma(first, scale, low));
    store(to + k + 16, fma(second, scale, low));
  }
  if (k == n) return;
  const std::int64_t half = i4_code_bytes(n - k);
  alignas(64) std::byte codes[16] = {};
  __builtin_memcpy(codes, from + kI4Header, static_cast<std::size_t>(half));
  const F32 scale = repeat_f16(from), low = repeat_f16(from + 2);
  F32 first, second;
  load_nibbles(codes, first, second);
  store_first(to + k, fma(first, scale, low), static_cast<int>(half));
  store_first(to + k + half, fma(second, scale, low), static_cast<int>(n - k - half));
}

/// A block of 16 keys: element k of key i at k · stride + i.
QUIRE_INLINE void widen_i4_block(const std::byte* from, std::int64_t K, float* to,
                                 std::int64_t stride) {
  for (std::int64_t k = 0; k < K; k += kI4Group) {
    const std::int64_t size = i4_group_size(K, k), half = i4_code_bytes(size);
    const F32 scale = load_f16(from), low = load_f16(from + 32);
    from += 16 * kI4Header;
    for (std::int64_t i = 0; i < half; ++i, from += 16) {
      F32 first, second;
      load_nibbles(from, first, second);
      store(to + (k + i) * stride, fma(first, scale, low));
      if (half + i < size) store(to + (k + half + i) * stride, fma(second, scale, low));
    }
  }
}

/// One key of a block, number after number: element k at k · stride.
QUIRE_INLINE void widen_i4_lane(const std::byte* block, std::int64_t lane, std::int64_t K,
                                float* to, std::int64_t stride) {
  for (std::int64_t k = 0; k < K; k += kI4Group) {
    const std::int64_t size = i4_group_size(K, k), half = i4_code_bytes(size);
    const F32 scale = repeat_f16(block + 2 * lane), low = repeat_f16(block + 32 + 2 * lane);
    const std::byte* codes = block + 16 * kI4Header + lane;
    alignas(64) std::byte gathered[16] = {};
    alignas(64) float numbers[32];
    for (std::int64_t i = 0; i < half; ++i) gathered[i] = codes[16 * i];
    F32 first, second;
    load_nibbles(gathered, first, second);
    store(numbers, fma(first, scale, low));
    store(numbers + 16, fma(second, scale, low));
    for (std::int64_t i = 0; i < size; ++i)
      to[(k + i) * stride] = numbers[i < half ? i : 16 + i - half];
    block += 16 * i4_group_bytes(size);
  }
}

/// 16 keys that lie as rows: element k of key i at k · stride + i.
QUIRE_INLINE void turn_i4_rows(const std::byte* const* rows, std::int64_t K, float* to,
                               std::int64_t stride) {
  std::int64_t at = 0;
  for (std::int64_t k = 0; k < K; k += kI4Group) {
    const std::int64_t size = i4_group_size(K, k);
    alignas(64) float wide[16][kI4Group];
    for (int i = 0; i < 16; ++i) widen_i4_row(rows[i] + at, size, wide[i]);
    for (std::int64_t part = 0; part < size; part += 16) {
      F32 x[16];
      for (int i = 0; i < 16; ++i) x[i] = load(wide[i] + part);
      transpose(x);
      for (std::int64_t j = 0; j < 16 && part + j < size; ++j)
        store(to + (k + part + j) * stride, x[j]);
    }
    at += i4_group_bytes(size);
  }
}

}  // namespace quire::kernel::QUIRE_ISA_NS

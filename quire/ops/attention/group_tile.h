#pragma once

// From rows and blocks of the grouped forms (group_row.h) to floats: one FMA or one product each,
// so that every way to read a number gives the same bits.

#include "quire/base/dtype_enum.h"
#include "quire/base/half.h"
#include "quire/base/simd.h"
#include "quire/ops/attention/group_row.h"

namespace quire::kernel::QUIRE_ISA_NS {

/// The type that stands for a grouped form where others have a loader of 16 elements.
template <class Of>
struct LoadGroups {
  using Form = Of;
  static constexpr std::int64_t kBytes = 1;
};
using LoadI4 = LoadGroups<FormI4>;
using LoadI8H = LoadGroups<FormI8H>;

template <class Load>
inline constexpr bool kGrouped = false;
template <class Form>
inline constexpr bool kGrouped<LoadGroups<Form>> = true;

QUIRE_INLINE bool is_grouped(DType dtype) {
  return dtype == DType::kI4 || dtype == DType::kI4H || dtype == DType::kI8H;
}

/// The bytes from one lane's part of a row to the end of the row. (Of others: elements.)
template <class Load>
QUIRE_INLINE std::int64_t stored_bytes(std::int64_t n) {
  if constexpr (kGrouped<Load>) return group_row_bytes<typename Load::Form>(n);
  return n * Load::kBytes;
}

/// What turns the codes of a group into its numbers: of one key, or of 16 keys of a block.
template <class Form>
struct GroupScale;
template <>
struct GroupScale<FormI4> {
  F32 scale, low;
  QUIRE_INLINE GroupScale of_row(const std::byte* p, std::int64_t width = 1) {
    return {repeat_f16(p), repeat_f16(p + 2 * width)};
  }
  QUIRE_INLINE GroupScale of_block(const std::byte* p) { return {load_f16(p), load_f16(p + 32)}; }
};
template <>
struct GroupScale<FormI8H> {
  F32 scale;
  QUIRE_INLINE GroupScale of_row(const std::byte* p, std::int64_t = 1) { return {repeat_f16(p)}; }
  QUIRE_INLINE GroupScale of_block(const std::byte* p) { return {load_f16(p)}; }
};
QUIRE_INLINE F32 number(F32 code, const GroupScale<FormI4>& s) { return fma(code, s.scale, s.low); }
QUIRE_INLINE F32 number(F32 code, const GroupScale<FormI8H>& s) { return mul(code, s.scale); }

/// The codes of a whole group, `in_first` of them in the first vector.
template <class Form>
QUIRE_INLINE void load_codes(const std::byte* p, F32& first, F32& second) {
  if constexpr (Form::code_bytes(kGroup) == 16) {
    load_nibbles(p, first, second);
  } else {
    first = load_i8(p);
    second = load_i8(p + 16);
  }
}

/// A row of n numbers, without reading or writing past them.
template <class Form>
QUIRE_INLINE void widen_group_row(const std::byte* from, std::int64_t n, float* to) {
  std::int64_t k = 0;
  F32 first, second;
  for (; k + kGroup <= n; k += kGroup, from += group_bytes<Form>(kGroup)) {
    const auto scale = GroupScale<Form>::of_row(from);
    load_codes<Form>(from + Form::kHeader, first, second);
    store(to + k, number(first, scale));
    store(to + k + 16, number(second, scale));
  }
  if (k == n) return;
  const std::int64_t size = n - k, in_first = Form::in_first(size);
  alignas(64) std::byte codes[kGroup] = {};
  __builtin_memcpy(codes, from + Form::kHeader, static_cast<std::size_t>(Form::code_bytes(size)));
  const auto scale = GroupScale<Form>::of_row(from);
  load_codes<Form>(codes, first, second);
  store_first(to + k, number(first, scale), static_cast<int>(in_first));
  store_first(to + k + in_first, number(second, scale), static_cast<int>(size - in_first));
}

/// A block of 16 keys: element k of key i at k · stride + i.
template <class Form>
QUIRE_INLINE void widen_group_block(const std::byte* from, std::int64_t K, float* to,
                                    std::int64_t stride) {
  for (std::int64_t k = 0; k < K; k += kGroup) {
    const std::int64_t size = group_size(K, k), bytes = Form::code_bytes(size);
    const auto scale = GroupScale<Form>::of_block(from);
    from += 16 * Form::kHeader;
    for (std::int64_t i = 0; i < bytes; ++i, from += 16) {
      if constexpr (Form::code_bytes(kGroup) == 16) {
        F32 below, above;
        load_nibbles(from, below, above);
        store(to + (k + i) * stride, number(below, scale));
        if (bytes + i < size) store(to + (k + bytes + i) * stride, number(above, scale));
      } else {
        store(to + (k + i) * stride, number(load_i8(from), scale));
      }
    }
  }
}

/// One key of a block, number after number: element k at k · stride.
template <class Form>
QUIRE_INLINE void widen_group_lane(const std::byte* block, std::int64_t lane, std::int64_t K,
                                   float* to, std::int64_t stride) {
  for (std::int64_t k = 0; k < K; k += kGroup) {
    const std::int64_t size = group_size(K, k), in_first = Form::in_first(size);
    const auto scale = GroupScale<Form>::of_row(block + 2 * lane, 16);
    const std::byte* codes = block + 16 * Form::kHeader + lane;
    alignas(64) std::byte gathered[kGroup] = {};
    alignas(64) float numbers[kGroup];
    for (std::int64_t i = 0; i < Form::code_bytes(size); ++i) gathered[i] = codes[16 * i];
    F32 first, second;
    load_codes<Form>(gathered, first, second);
    store(numbers, number(first, scale));
    store(numbers + 16, number(second, scale));
    for (std::int64_t i = 0; i < size; ++i)
      to[(k + i) * stride] = numbers[i < in_first ? i : 16 + i - in_first];
    block += 16 * group_bytes<Form>(size);
  }
}

/// 16 keys that lie as rows: element k of key i at k · stride + i.
template <class Form>
QUIRE_INLINE void turn_group_rows(const std::byte* const* rows, std::int64_t K, float* to,
                                  std::int64_t stride) {
  std::int64_t at = 0;
  for (std::int64_t k = 0; k < K; k += kGroup) {
    const std::int64_t size = group_size(K, k);
    alignas(64) float wide[16][kGroup];
    for (int i = 0; i < 16; ++i) widen_group_row<Form>(rows[i] + at, size, wide[i]);
    for (std::int64_t part = 0; part < size; part += 16) {
      F32 x[16];
      for (int i = 0; i < 16; ++i) x[i] = load(wide[i] + part);
      transpose(x);
      for (std::int64_t j = 0; j < 16 && part + j < size; ++j)
        store(to + (k + part + j) * stride, x[j]);
    }
    at += group_bytes<Form>(size);
  }
}

}  // namespace quire::kernel::QUIRE_ISA_NS

#pragma once

#include <cstdint>

#include "quire/base/dtype_enum.h"

namespace quire {

/// Where an element of a page lies, in elements: page·strides.page + slot·strides.slot +
/// head·strides.head + k, except for KLayout::kBlocks. Of i4, i4h and i8h: where a row begins, in
/// bytes (kv_format.h).
struct PageStrides {
  std::int64_t page = 0, slot = 0, head = 0;
};

/// kRows: the K numbers of a key are contiguous. kBlocks: 16 keys are interleaved, element (slot,
/// k) of a head at head·strides.head + (slot / 16)·16·strides.slot + k·16 + slot % 16 (strides.slot
/// is then K): no horizontal sums in q·k. Keys only.
enum class KLayout : std::uint8_t { kRows, kBlocks };

/// Keys and values in pages, and the table that says which pages a sequence has. A plain struct:
/// every cache is only another way to fill it. A contiguous cache is a table with one page per
/// sequence. The view owns nothing.
struct KvView {
  const void* k_pages = nullptr;  // dtype; last dimension contiguous
  const void* v_pages = nullptr;
  PageStrides k_strides, v_strides;
  KLayout k_layout = KLayout::kRows;
  DType dtype = DType::kF32;           // f32, bf16, f16, f64, i4, i4h, i8h or i8 (then with scales)
  const float* k_scale_PZG = nullptr;  // i8: key = k · scale
  const float* v_scale_PZG = nullptr;

  std::int64_t P = 0;  // pages
  std::int64_t Z = 0;  // slots of a page
  std::int64_t G = 0;  // key/value heads
  std::int64_t K = 0;  // head size of queries and keys
  std::int64_t U = 0;  // head size of values

  const float* bias = nullptr;  // [P, Z, bias_heads], added to the score; null = 0
  std::int64_t bias_heads = 1;  // 1, G or H

  // [B, W], or [B, G, W] with table_head_stride; -1 unused. null: sequence b has page b.
  const std::int32_t* table = nullptr;
  std::int64_t W = 1;
  std::int64_t table_head_stride = 0;  // 0: one row per sequence; W: one per kv head
  // CSR: the pages of sequence b are table[start[b] … start[b+1]).
  const std::int32_t* table_start_J = nullptr;

  const std::int64_t* length_BG = nullptr;  // keys of each sequence
  std::int64_t length_stride_G = 0;         // 0: one per sequence; 1: one per kv head
  // The position of slot 0; null = 0. Strides as of length_BG.
  const std::int64_t* first_BG = nullptr;
  const std::uint64_t* version_P = nullptr;  // write counter of each page, checked by backward
};

}  // namespace quire

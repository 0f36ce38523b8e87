#pragma once

// Where a key lies: the one place that knows the forms of a table and of a page.

#include <cstdint>

#include "quire/ops/attention/kv_view.h"

namespace quire::kernel {

/// Page w of sequence b, for kv head g.
[[gnu::always_inline]] static inline std::int64_t page_at(const KvView& kv, std::int64_t b,
                                                          std::int64_t g, std::int64_t w) {
  if (kv.table == nullptr) return b;
  if (kv.table_start_J != nullptr) return kv.table[kv.table_start_J[b] + w];
  return kv.table_head_stride == 0 ? kv.table[b * kv.W + w]
                                   : kv.table[(b * kv.G + g) * kv.table_head_stride + w];
}

/// The element where the row of a slot begins. In blocks its elements are 16 apart.
[[gnu::always_inline]] static inline std::int64_t slot_offset(const PageStrides& strides,
                                                              KLayout layout, std::int64_t page,
                                                              std::int64_t slot, std::int64_t g) {
  const std::int64_t head = page * strides.page + g * strides.head;
  return layout == KLayout::kBlocks ? head + slot / 16 * 16 * strides.slot + slot % 16
                                    : head + slot * strides.slot;
}

}  // namespace quire::kernel

#pragma once

// Rows lie anywhere in memory: the processor cannot guess the next one, so it is told. Only for
// *_simd.cpp files.

#include "quire/base/simd.h"

namespace quire::kernel::QUIRE_ISA_NS {

/// How many rows ahead of its turn a row of `bytes` is asked for: about 16 KiB on the way, so that
/// memory's answers overlap, and room for them in the second cache.
QUIRE_INLINE std::int64_t rows_ahead(std::int64_t bytes) {
  const std::int64_t rows = (16 << 10) / (bytes < 64 ? 64 : bytes);
  return rows < 8 ? 8 : rows > 64 ? 64 : rows;
}

/// Asks for a row, at most 1 KiB of it (the processor follows a longer one by itself), into the
/// second cache: it takes more requests at a time than the first.
QUIRE_INLINE void fetch_row(const void* row, std::int64_t bytes) {
  const auto* at = static_cast<const std::byte*>(row);
  for (std::int64_t b = 0; b < bytes && b < 1024; b += 64) __builtin_prefetch(at + b, 0, 2);
}

}  // namespace quire::kernel::QUIRE_ISA_NS

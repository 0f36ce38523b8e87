#pragma once

#include <cstdint>

#include "quire/base/dtype_enum.h"
#include "quire/base/isa.h"

namespace quire::kernel {

/// One side (keys or values) of kv_write. `blocks`: element k of a slot lies 16·k behind the start
/// of its block of 16.
struct KvWrite {
  void* pages;
  std::int64_t page_stride, slot_stride, head_stride;
  bool blocks;
  DType dtype;
  float* scale_PZG;  // i8 only
  std::int64_t Z, G, K;
  const float* x_NGK;  // contiguous
  const std::int64_t* slot_N;
  std::int64_t N;
};
void kv_write_cpu(const KvWrite& args);

/// Heads [first, last) of all tokens.
QUIRE_DECLARE_KERNEL(void, kv_write_heads, const KvWrite& args, std::int64_t first,
                     std::int64_t last)

}  // namespace quire::kernel

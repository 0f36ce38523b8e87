#pragma once

#include <cstdint>

#include "quire/base/dtype_enum.h"
#include "quire/base/isa.h"

namespace quire::kernel {

/// Keys or values of pages, strides as those of PageStrides. `blocks`: element k of a slot lies 16·k
/// behind the start of its block of 16.
struct KvSide {
  void* pages;
  std::int64_t page_stride, slot_stride, head_stride;
  bool blocks;
  DType dtype;
  float* scale_PZG;  // i8 only
  std::int64_t Z, G, K;
};

/// One side of kv_write.
struct KvWrite {
  KvSide side;
  const float* x_NGK;  // contiguous
  const std::int64_t* slot_N;
  std::int64_t N;
};
void kv_write_cpu(const KvWrite& args);
void kv_write_f64_cpu(const KvSide& side, const double* x_NGK, const std::int64_t* slot_N,
                      std::int64_t N);

/// out_NGK = what stands in the slots, which are cleared; a slot that is named twice is the later
/// token's. T is the pages' type.
template <class T>
void kv_take_cpu(const KvSide& side, const std::int64_t* slot_N, std::int64_t N, T* out_NGK);

/// The versions of the pages written, as KvPages says.
void count_versions_cpu(const std::int64_t* slot_N, std::int64_t N, std::int64_t Z,
                        std::int64_t* used_P, std::uint64_t* version_P);

/// Heads [first, last) of all tokens.
QUIRE_DECLARE_KERNEL(void, kv_write_heads, const KvWrite& args, std::int64_t first,
                     std::int64_t last)

}  // namespace quire::kernel

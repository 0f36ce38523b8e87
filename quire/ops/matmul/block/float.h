#pragma once

// F32, F16 and BF16: a "block" is one number; a panel holds column after column of 16 rows.

#include <cstddef>
#include <cstdint>

#include "quire/base/simd.h"
#include "quire/ops/matmul/matmul_kernel.h"

namespace quire::kernel::QUIRE_ISA_NS {

template <std::int64_t kBytes, F32 (*kLoad)(const void*)>
struct FloatBlock {
  static constexpr PanelFormat kFormat{1, kBytes, 16 * kBytes, false};

  static void pack(const std::byte* source, std::int64_t stride, int rows, std::int64_t D,
                   std::byte* panel) {
    __builtin_memset(panel, 0, static_cast<std::size_t>(16 * D * kBytes));
    for (int r = 0; r < rows; ++r)
      for (std::int64_t d = 0; d < D; ++d)
        __builtin_memcpy(panel + (16 * d + r) * kBytes, source + r * stride + d * kBytes, kBytes);
  }
  static void widen(const std::byte* panel, std::int64_t D, float* tile_D16) {
    for (std::int64_t d = 0; d < D; ++d) store(tile_D16 + 16 * d, kLoad(panel + 16 * d * kBytes));
  }
};

static inline F32 load_f32_bytes(const void* p) { return load(static_cast<const float*>(p)); }
static inline F32 load_f16_bytes(const void* p) { return load_f16(p); }
static inline F32 load_bf16_bytes(const void* p) { return load_bf16(p); }

using BlockF32 = FloatBlock<4, load_f32_bytes>;
using BlockF16 = FloatBlock<2, load_f16_bytes>;
using BlockBF16 = FloatBlock<2, load_bf16_bytes>;

}  // namespace quire::kernel::QUIRE_ISA_NS

// Rounding keys and values into pages, compiled once per instruction set.

#include "quire/base/simd.h"
#include "quire/ops/attention/kv_write_kernel.h"

namespace quire::kernel::QUIRE_ISA_NS {
namespace {

struct StoreF32 {
  static constexpr std::int64_t kBytes = 4;
  QUIRE_INLINE void put(void* p, F32 x) { store(static_cast<float*>(p), x); }
};
struct StoreF16 {
  static constexpr std::int64_t kBytes = 2;
  QUIRE_INLINE void put(void* p, F32 x) { store_f16(p, x); }
};
struct StoreBF16 {
  static constexpr std::int64_t kBytes = 2;
  QUIRE_INLINE void put(void* p, F32 x) { store_bf16(p, x); }
};
struct StoreI8 {
  static constexpr std::int64_t kBytes = 1;
  QUIRE_INLINE void put(void* p, F32 x) { store_i8(p, x); }
};

// Below this 127 / x overflows, and a row counts as zeros.
constexpr float kSmallestRow = 0x1p-120f;

/// The largest magnitude of a row; NaN when it holds what is not finite, so that its scale says so.
float largest_magnitude(const float* x, std::int64_t K) {
  F32 largest = zero();
  bool finite = true;
  for (std::int64_t k = 0; k < K; k += 16) {
    const F32 part = load_first(x + k, K - k < 16 ? static_cast<int>(K - k) : 16);
    finite = finite && all_finite(part);
    largest = max(largest, abs(part));
  }
  return finite ? reduce_max(largest) : __builtin_nanf("");
}

template <class Store>
void write(const KvWrite& a, std::int64_t first, std::int64_t last) {
  constexpr std::int64_t kBytes = Store::kBytes;
  const KvSide& s = a.side;
  for (std::int64_t n = 0; n < a.N; ++n) {
    if (a.slot_N[n] < 0) continue;  // before the division: a pool without slots has Z = 0
    const std::int64_t slot = a.slot_N[n] % s.Z, page = a.slot_N[n] / s.Z;
    for (std::int64_t g = first; g < last; ++g) {
      const float* x = a.x_NGK + (n * s.G + g) * s.K;
      F32 factor = set1(1.0f);
      if (s.scale_PZG != nullptr) {
        const float largest = largest_magnitude(x, s.K);
        s.scale_PZG[a.slot_N[n] * s.G + g] = largest / 127.0f;
        factor = set1(largest > kSmallestRow ? 127.0f / largest : 0.0f);
      }
      auto* head =
          static_cast<std::byte*>(s.pages) + (page * s.page_stride + g * s.head_stride) * kBytes;
      std::byte* row =
          head +
          (s.blocks ? slot / 16 * 16 * s.slot_stride + slot % 16 : slot * s.slot_stride) * kBytes;
      for (std::int64_t k = 0; k < s.K; k += 16) {
        const int count = s.K - k < 16 ? static_cast<int>(s.K - k) : 16;
        alignas(64) std::byte stored[64];
        Store::put(stored, mul(load_first(x + k, count), factor));
        if (!s.blocks) {
          __builtin_memcpy(row + k * kBytes, stored, static_cast<std::size_t>(count * kBytes));
          continue;
        }
        for (int i = 0; i < count; ++i) {
          __builtin_memcpy(row + (k + i) * 16 * kBytes, stored + i * kBytes,
                           static_cast<std::size_t>(kBytes));
        }
      }
    }
  }
}

}  // namespace

void kv_write_heads(const KvWrite& args, std::int64_t first, std::int64_t last) {
  switch (args.side.dtype) {
    case DType::kF16:
      return write<StoreF16>(args, first, last);
    case DType::kBF16:
      return write<StoreBF16>(args, first, last);
    case DType::kI8:
      return write<StoreI8>(args, first, last);
    default:
      return write<StoreF32>(args, first, last);
  }
}

}  // namespace quire::kernel::QUIRE_ISA_NS

// Rounding keys and values into pages, compiled once per instruction set.

#include "quire/base/simd.h"
#include "quire/ops/attention/group_row.h"
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

/// A group as it is stored, but for the place of its parts. Nothing here depends on the order of a
/// sum: every instruction set writes the same bytes.
struct Group {
  std::byte header[4];
  alignas(64) std::byte codes[kGroup];  // one a byte
};

QUIRE_INLINE F32 rounded_to_f16(float x, std::byte* half) {
  alignas(64) std::byte sixteen[32];
  store_f16(sixteen, set1(x));
  __builtin_memcpy(half, sixteen, 2);
  return repeat_f16(sixteen);
}

QUIRE_INLINE void round_group(FormI4, const float* x, std::int64_t n, Group& out) {
  const int first = n < 16 ? static_cast<int>(n) : 16, second = static_cast<int>(n) - first;
  // Lanes without a number take the first one, which changes neither end.
  const F32 any = set1(x[0]);
  const F32 part[2] = {keep_lanes(load_first(x, first), 0, first, any),
                       keep_lanes(load_first(x + first, second), 0, second, any)};
  const F32 minus[2] = {sub(zero(), part[0]), sub(zero(), part[1])};
  const bool finite = all_finite(part[0]) && all_finite(part[1]);
  // (0 − x is never −0, which other processors may find the larger of two zeros.)
  const float lowest = 0.0f - reduce_max(max(minus[0], minus[1])),
              highest = reduce_max(max(part[0], part[1])), nan = __builtin_nanf("");
  const F32 low = rounded_to_f16(finite ? lowest : nan, out.header + 2);
  // As it was rounded, `low` may lie above a group of equal numbers.
  const float width = highest - reduce_max(low);
  const F32 scale = rounded_to_f16(finite ? (width > 0 ? width / 15.0f : 0.0f) : nan, out.header);
  const F32 factor =
      select_less(zero(), scale, div(set1(1.0f), scale), zero());  // of equal numbers, and of NaN
  for (int p = 0; p < 2; ++p) {
    const F32 code = mul(sub(part[p], low), factor);
    store_i8(out.codes + 16 * p, round(max(zero(), min(set1(15.0f), code))));
  }
}

QUIRE_INLINE void round_group(FormI8H, const float* x, std::int64_t n, Group& out) {
  const float largest = largest_magnitude(x, n);
  const F32 scale = rounded_to_f16(largest / 127.0f, out.header);
  // Of zeros, of what f16 does not hold and of NaN the scale says all.
  const F32 factor = select_less(zero(), scale, div(set1(1.0f), scale), zero());
  const bool finite = reduce_max(scale) < 65505.0f;
  for (std::int64_t k = 0; k < n; k += 16) {
    const F32 part = load_first(x + k, n - k < 16 ? static_cast<int>(n - k) : 16);
    const F32 code = round(mul(finite ? part : zero(), factor));
    store_i8(out.codes + k, max(set1(-127.0f), min(set1(127.0f), code)));
  }
}

/// Byte i of the codes of a group of n.
QUIRE_INLINE std::byte packed(FormI4, const Group& group, std::int64_t i, std::int64_t n) {
  const std::int64_t half = FormI4::code_bytes(n);
  return group.codes[i] | (half + i < n ? group.codes[half + i] << 4 : std::byte{0});
}
QUIRE_INLINE std::byte packed(FormI8H, const Group& group, std::int64_t i, std::int64_t) {
  return group.codes[i];
}

/// Rows of a grouped form. In a block of 16 keys the parts of a group are 16 times as wide.
template <class Form>
void write_groups(const KvWrite& a, std::int64_t first, std::int64_t last) {
  const KvSide& s = a.side;
  for (std::int64_t n = 0; n < a.N; ++n) {
    if (a.slot_N[n] < 0) continue;
    const std::int64_t slot = a.slot_N[n] % s.Z, page = a.slot_N[n] / s.Z;
    const std::int64_t width = s.blocks ? 16 : 1, lane = s.blocks ? slot % 16 : 0;
    for (std::int64_t g = first; g < last; ++g) {
      const float* x = a.x_NGK + (n * s.G + g) * s.K;
      auto* to = static_cast<std::byte*>(s.pages) + page * s.page_stride + g * s.head_stride +
                 (slot - lane) * s.slot_stride;
      for (std::int64_t k = 0; k < s.K; k += kGroup) {
        const std::int64_t size = group_size(s.K, k);
        Group group;
        round_group(Form{}, x + k, size, group);
        for (std::int64_t half = 0; half < Form::kHeader; half += 2)
          __builtin_memcpy(to + half * width + 2 * lane, group.header + half, 2);
        std::byte* codes = to + Form::kHeader * width + lane;
        for (std::int64_t i = 0; i < Form::code_bytes(size); ++i)
          codes[i * width] = packed(Form{}, group, i, size);
        to += group_bytes<Form>(size) * width;
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
    case DType::kI4:
    case DType::kI4H:
      return write_groups<FormI4>(args, first, last);
    case DType::kI8H:
      return write_groups<FormI8H>(args, first, last);
    default:
      return write<StoreF32>(args, first, last);
  }
}

}  // namespace quire::kernel::QUIRE_ISA_NS

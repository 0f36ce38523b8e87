#include <algorithm>

#include "quire/base/thread_pool.h"
#include "quire/ops/attention/kv_write_kernel.h"

namespace quire::kernel {
namespace {

// Less than this many numbers cost less than telling a thread of them. (In blocks of keys every
// other number begins a line of memory.)
constexpr std::int64_t kWorthAThread = 2'048;

/// Where the row of a slot begins; its elements are 16 apart in blocks.
std::int64_t row_of(const KvSide& side, std::int64_t flat_slot, std::int64_t g) {
  const std::int64_t slot = flat_slot % side.Z;
  const std::int64_t head = flat_slot / side.Z * side.page_stride + g * side.head_stride;
  return side.blocks ? head + slot / 16 * 16 * side.slot_stride + slot % 16
                     : head + slot * side.slot_stride;
}

}  // namespace

void kv_write_cpu(const KvWrite& args) {
  const auto heads = QUIRE_FOR_ISA(kv_write_heads);
  if (args.N * args.side.G * args.side.K < kWorthAThread) return heads(args, 0, args.side.G);
  thread_pool().run(args.side.G, [&](std::int64_t g) { heads(args, g, g + 1); });
}

void kv_write_f64_cpu(const KvSide& side, const double* x_NGK, const std::int64_t* slot_N,
                      std::int64_t N) {
  const std::int64_t step = side.blocks ? 16 : 1;
  for (std::int64_t n = 0; n < N; ++n) {
    if (slot_N[n] < 0) continue;
    for (std::int64_t g = 0; g < side.G; ++g) {
      double* row = static_cast<double*>(side.pages) + row_of(side, slot_N[n], g);
      for (std::int64_t k = 0; k < side.K; ++k)
        row[k * step] = x_NGK[(n * side.G + g) * side.K + k];
    }
  }
}

template <class T>
void kv_take_cpu(const KvSide& side, const std::int64_t* slot_N, std::int64_t N, T* out_NGK) {
  const std::int64_t step = side.blocks ? 16 : 1;
  const auto head = [&](std::int64_t g) {
    for (std::int64_t n = N - 1; n >= 0; --n) {
      T* out = out_NGK + (n * side.G + g) * side.K;
      if (slot_N[n] < 0) {
        std::fill_n(out, side.K, T{0});
        continue;
      }
      T* row = static_cast<T*>(side.pages) + row_of(side, slot_N[n], g);
      for (std::int64_t k = 0; k < side.K; ++k) {
        out[k] = row[k * step];
        row[k * step] = 0;
      }
    }
  };
  if (N * side.G * side.K >= kWorthAThread) return thread_pool().run(side.G, head);
  for (std::int64_t g = 0; g < side.G; ++g) head(g);
}
template void kv_take_cpu(const KvSide&, const std::int64_t*, std::int64_t, float*);
template void kv_take_cpu(const KvSide&, const std::int64_t*, std::int64_t, double*);

void count_versions_cpu(const std::int64_t* slot_N, std::int64_t N, std::int64_t Z,
                        std::int64_t* used_P, std::uint64_t* version_P) {
  for (std::int64_t n = 0; n < N; ++n) {
    if (slot_N[n] < 0) continue;
    const std::int64_t page = slot_N[n] / Z, slot = slot_N[n] % Z;
    if (used_P == nullptr || slot < used_P[page]) {
      ++version_P[page];
    } else {
      used_P[page] = slot + 1;
    }
  }
}

}  // namespace quire::kernel

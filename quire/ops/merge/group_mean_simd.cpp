// Sums of the members of groups, compiled once per instruction set: one walk over the keys in
// order, each added to its group's row.

#include "quire/base/simd.h"
#include "quire/ops/merge/group_mean_kernel.h"
#include "quire/ops/merge/key_tile.h"

namespace quire::kernel::QUIRE_ISA_NS {
namespace {

constexpr int kSpan = 64;

QUIRE_INLINE void add_row(float* to, const float* row, std::int64_t n, float share) {
  const F32 a = set1(share);
  std::int64_t i = 0;
  for (; i + 16 <= n; i += 16) store(to + i, fma(a, load(row + i), load(to + i)));
  if (i == n) return;
  const int rest = static_cast<int>(n - i);
  store_first(to + i, fma(a, load_first(row + i, rest), load_first(to + i, rest)), rest);
}

}  // namespace

void read_key_rows(const KvView& kv, std::int64_t b, std::int64_t g, std::int64_t slot, int count,
                   float* k, float* v) {
  load_key_rows(kv, {b, g, slot, count}, k);
  if (v != nullptr) load_value_rows(kv, {b, g, slot, count}, v);
}

void add_group_rows(const KeyGroups<float>& keys, const GroupSum& sum, float* scratch) {
  const std::int64_t width = sum.values ? keys.kv.U : keys.kv.K;
  const std::int64_t* group = keys.group_GS + sum.g * keys.S;
  const float* share = sum.share_GS + sum.g * keys.S;
  for (std::int64_t slot = 0; slot < keys.S; slot += kSpan) {
    const int count = static_cast<int>(keys.S - slot < kSpan ? keys.S - slot : kSpan);
    bool wanted = false;
    for (int i = 0; i < count; ++i)
      wanted = wanted || (group[slot + i] >= sum.first && group[slot + i] < sum.last);
    if (!wanted) continue;
    const KeySpan span{keys.b, sum.g, slot, count};
    if (sum.values) {
      load_value_rows(keys.kv, span, scratch);
    } else {
      load_key_rows(keys.kv, span, scratch);
    }
    for (int i = 0; i < count; ++i) {
      const std::int64_t m = group[slot + i];
      if (m < sum.first || m >= sum.last) continue;
      add_row(sum.to + m * width, scratch + i * width, width, share[slot + i]);
    }
  }
}

}  // namespace quire::kernel::QUIRE_ISA_NS

#include "quire/ops/attention/shared_attention.h"

#include <algorithm>

#include "quire/ops/attention/attention_kernel.h"
#include "quire/ops/attention/page_table.h"

namespace quire {
namespace {

/// Every query sees all keys before those of its own step, at whatever position it stands.
bool sees_all_before(const AttentionSpec& spec) {
  return spec.window_left == kUnlimited && spec.slope_H == nullptr && spec.mask_TS == nullptr &&
         spec.allow_TS == nullptr &&
         (spec.alignment == Alignment::kBottomRight || spec.window_right == kUnlimited);
}

bool is_one_row_a_sequence(const KvView& kv) {
  return kv.table != nullptr && kv.table_head_stride == 0 && kv.length_stride_G == 0 &&
         kv.first_BG == nullptr;
}

}  // namespace

std::int64_t shared_keys(const Tensor& start_J, const KvView& kv, const AttentionSpec& spec) {
  if (!is_one_row_a_sequence(kv) || !sees_all_before(spec)) return 0;
  const auto* start = start_J.data<std::int32_t>();
  std::int64_t first = -1, sequences = 0, keys = INT64_MAX;
  for (std::int64_t b = 0; b + 1 < start_J.size(0) && keys >= kernel::kChunkKeys; ++b) {
    const std::int64_t queries = start[b + 1] - start[b];
    if (queries == 0) continue;
    if (first < 0) first = b;
    ++sequences;
    keys = std::min(keys, kv.length_BG[b] - queries);
    std::int64_t page = 0;
    while (page * kv.Z < keys &&
           kernel::page_at(kv, b, 0, page) == kernel::page_at(kv, first, 0, page))
      ++page;
    keys = std::min(keys, page * kv.Z);
  }
  return sequences < 2 ? 0
                       : std::max<std::int64_t>(0, keys) / kernel::kChunkKeys * kernel::kChunkKeys;
}

}  // namespace quire

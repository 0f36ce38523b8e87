#include "quire/ops/attention/kv_snapshot.h"

#include <algorithm>

#include "quire/base/error.h"
#include "quire/ops/attention/page_table.h"
#include "quire/ops/attention/visible.h"

namespace quire {

KvSnapshot::KvSnapshot(const KvView& kv, std::int64_t B) : kv_(kv) {
  QUIRE_CHECK(kv.length_BG != nullptr, "kv.length_BG is missing");
  QUIRE_CHECK(kv.Z > 0 && kv.G > 0 && B >= 0, "kv: Z is ", kv.Z, ", G ", kv.G, ", B ", B);
  const std::int64_t lengths = kv.length_stride_G == 0 ? B : B * kv.G;
  length_BG_.assign(kv.length_BG, kv.length_BG + lengths);
  if (kv.first_BG != nullptr) first_BG_.assign(kv.first_BG, kv.first_BG + lengths);
  const bool per_head = kv.table_head_stride != 0;
  for (std::int64_t b = 0; b < B && kv.version_P != nullptr; ++b) {
    std::int64_t most = 0;
    for (std::int64_t g = 0; g < kv.G; ++g) {
      most = std::max(most, kernel::view_length(kv, b, g));
      if (per_head) add_pages(b, g, kernel::view_length(kv, b, g));
    }
    if (!per_head) add_pages(b, 0, most);
  }
  copy_table(B);
}

void KvSnapshot::add_pages(std::int64_t b, std::int64_t g, std::int64_t length) {
  for (std::int64_t w = 0; w * kv_.Z < length; ++w) {
    const std::int64_t page = kernel::page_at(kv_, b, g, w);
    QUIRE_CHECK(page >= 0 && page < kv_.P, "kv.table: page ", w, " of sequence ", b, " is ", page,
                ", but there are P = ", kv_.P);
    pages_.push_back({page, kv_.version_P[page]});
  }
}

void KvSnapshot::copy_table(std::int64_t B) {
  if (kv_.table == nullptr) return;
  if (kv_.table_start_J != nullptr) {
    table_start_J_.assign(kv_.table_start_J, kv_.table_start_J + B + 1);
    table_.assign(kv_.table, kv_.table + table_start_J_.back());
    return;
  }
  const bool per_head = kv_.table_head_stride != 0;
  const std::int64_t rows = per_head ? B * kv_.G : B;
  const std::int64_t stride = per_head ? kv_.table_head_stride : kv_.W;
  for (std::int64_t r = 0; r < rows; ++r)
    table_.insert(table_.end(), kv_.table + r * stride, kv_.table + r * stride + kv_.W);
  if (per_head) kv_.table_head_stride = kv_.W;
}

KvView KvSnapshot::view() const {
  for (const Page& at : pages_) {
    QUIRE_CHECK(kv_.version_P[at.page] == at.version, "page ", at.page,
                " was overwritten after the forward that read it: its version was ", at.version,
                " and is ", kv_.version_P[at.page]);
  }
  KvView out = kv_;
  out.length_BG = length_BG_.data();
  if (kv_.first_BG != nullptr) out.first_BG = first_BG_.data();
  if (kv_.table != nullptr) out.table = table_.data();
  if (kv_.table_start_J != nullptr) out.table_start_J = table_start_J_.data();
  return out;
}

}  // namespace quire

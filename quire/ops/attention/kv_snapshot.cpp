#include "quire/ops/attention/kv_snapshot.h"

#include <algorithm>

#include "quire/base/error.h"

namespace quire {

KvSnapshot::KvSnapshot(const KvView& kv, std::int64_t B) : kv_(kv) {
  QUIRE_CHECK(kv.length_BG != nullptr, "kv.length_BG is missing");
  QUIRE_CHECK(kv.Z > 0 && kv.G > 0 && B >= 0, "kv: Z is ", kv.Z, ", G ", kv.G, ", B ", B);
  const std::int64_t lengths = kv.length_stride_G == 0 ? B : B * kv.G;
  length_BG_.assign(kv.length_BG, kv.length_BG + lengths);
  if (kv.first_BG != nullptr) first_BG_.assign(kv.first_BG, kv.first_BG + lengths);
  if (kv.table == nullptr) {
    for (std::int64_t b = 0; b < B; ++b) add_row(nullptr, b, longest(b) > 0 ? 1 : 0);
    return;
  }
  if (kv.table_start_J != nullptr) {
    table_start_J_.assign(kv.table_start_J, kv.table_start_J + B + 1);
    table_.assign(kv.table, kv.table + table_start_J_.back());
    for (std::int64_t b = 0; b < B; ++b) {
      const auto at = static_cast<std::size_t>(b);
      add_row(kv.table + table_start_J_[at], b, table_start_J_[at + 1] - table_start_J_[at]);
    }
    return;
  }
  const bool per_head = kv.table_head_stride != 0;
  const std::int64_t rows = per_head ? B * kv.G : B;
  const std::int64_t stride = per_head ? kv.table_head_stride : kv.W;
  for (std::int64_t r = 0; r < rows; ++r) {
    table_.insert(table_.end(), kv.table + r * stride, kv.table + r * stride + kv.W);
    add_row(kv.table + r * stride, per_head ? r / kv.G : r, kv.W);
  }
  if (per_head) kv_.table_head_stride = kv.W;
}

std::int64_t KvSnapshot::longest(std::int64_t b) const {
  if (kv_.length_stride_G == 0) return length_BG_[static_cast<std::size_t>(b)];
  std::int64_t most = 0;
  for (std::int64_t g = 0; g < kv_.G; ++g)
    most = std::max(most, length_BG_[static_cast<std::size_t>(b * kv_.G + g)]);
  return most;
}

void KvSnapshot::add_row(const std::int32_t* row, std::int64_t b, std::int64_t width) {
  if (kv_.version_P == nullptr) return;
  const std::int64_t length = longest(b);
  for (std::int64_t w = 0; w < width && w * kv_.Z < length; ++w) {
    const std::int64_t page = row == nullptr ? b : row[w];
    QUIRE_CHECK(page >= 0 && page < kv_.P, "kv.table: page ", w, " of sequence ", b, " is ", page,
                ", but there are P = ", kv_.P);
    pages_.push_back({page, kv_.version_P[page]});
  }
}

KvView KvSnapshot::view() const {
  for (const Page& at : pages_) {
    QUIRE_CHECK(kv_.version_P[at.page] == at.version, "page ", at.page,
                " was overwritten after the forward that reads it: its version was ", at.version,
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

#include "quire/cache/token_rows.h"

#include <cstring>

#include "quire/base/error.h"
#include "quire/cache/kv_store.h"
#include "quire/ops/attention/kv_format.h"

namespace quire::cache {
namespace {

/// Tokens of a head that fill the better part of a large memory page: tokens far apart are then
/// fetched with fewer page walks.
constexpr std::uint64_t kLargeBytes = 3u << 19;

Reserved::Commit commit_of(const LayerSpec& spec, std::int64_t slots, DType dtype) {
  const std::uint64_t head = checked_bytes(slots, 1, spec.K + spec.U, size_of(dtype));
  return head >= kLargeBytes ? Reserved::Commit::kLarge : Reserved::Commit::kSmall;
}

}  // namespace

TokenRows::TokenRows(const LayerSpec& spec, std::int64_t slots, DType dtype)
    : G_(spec.G),
      K_(spec.K),
      U_(spec.U),
      slots_(whole_tiles(slots)),
      dtype_(dtype),
      rows_(checked_bytes(2 * slots_, spec.G, spec.K + spec.U, size_of(dtype)),
            commit_of(spec, slots_, dtype)),
      k_scale_(checked_bytes(2 * slots_, spec.G, kv_scale_bytes(dtype), 1)),
      v_scale_(checked_bytes(2 * slots_, spec.G, kv_scale_bytes(dtype), 1)) {}

KvPages TokenRows::pages(std::int64_t P, std::int64_t Z) const {
  const std::int64_t row = K_ + U_;
  const PageStrides strides{Z * row, row, 2 * slots_ * row};
  return {rows_.data(),
          rows_.data() + K_ * static_cast<std::int64_t>(size_of(dtype_)),
          strides,
          strides,
          KLayout::kRows,
          dtype_,
          reinterpret_cast<float*>(k_scale_.data()),
          reinterpret_cast<float*>(v_scale_.data()),
          P,
          Z,
          G_,
          K_,
          U_};
}

void TokenRows::write(const Tensor& k_NGK, const Tensor& v_NGU, std::int64_t first) {
  const std::int64_t N = k_NGK.size(0);
  QUIRE_CHECK((first >= out_end_ || out_begin_ == out_end_) && first + N <= slots_, "slots ", first,
              " to ", first + N, " of ", slots_, "; the first ", out_end_, " were moved");
  write_from(pages(1, slots_), k_NGK, v_NGU, first);
}

KvView TokenRows::view(std::int64_t Z) const { return view_of(pages(2 * slots_ / Z, Z)); }

KvView TokenRows::stretch(std::int64_t begin, std::int64_t n) const {
  const std::int64_t at = place(begin);
  KvPages all = pages(1, whole_tiles(n));
  const std::int64_t offset = at * (K_ + U_) * static_cast<std::int64_t>(size_of(dtype_));
  all.k_pages = static_cast<std::byte*>(all.k_pages) + offset;
  all.v_pages = static_cast<std::byte*>(all.v_pages) + offset;
  if (all.k_scale_PZG != nullptr) {
    all.k_scale_PZG += at * G_;
    all.v_scale_PZG += at * G_;
  }
  return view_of(all);
}

void TokenRows::copy(std::int64_t from, std::int64_t to, std::int64_t n) {
  const std::int64_t row = (K_ + U_) * static_cast<std::int64_t>(size_of(dtype_));
  for (std::int64_t g = 0; g < G_; ++g) {
    std::byte* head = rows_.data() + 2 * slots_ * row * g;
    std::memcpy(head + to * row, head + from * row, static_cast<std::size_t>(n * row));
  }
  const std::int64_t one = kv_scale_bytes(dtype_) * G_;
  if (one == 0) return;
  for (const Reserved* scale : {&k_scale_, &v_scale_})
    std::memcpy(scale->data() + to * one, scale->data() + from * one,
                static_cast<std::size_t>(n * one));
}

void TokenRows::forget(std::int64_t first, std::int64_t n) {
  const std::int64_t row = (K_ + U_) * static_cast<std::int64_t>(size_of(dtype_));
  for (std::int64_t g = 0; g < G_; ++g)
    rows_.release(static_cast<std::uint64_t>((2 * slots_ * g + first) * row),
                  static_cast<std::uint64_t>(n * row));
}

void TokenRows::move_out(std::int64_t begin, std::int64_t end) {
  QUIRE_CHECK(begin % 16 == 0 && end % 16 == 0 && begin <= end && end <= slots_ &&
                  (out_begin_ == out_end_ || begin == out_end_),
              "slots ", begin, " to ", end, " cannot be moved behind ", out_end_);
  copy(begin, slots_ + begin, end - begin);
  forget(begin, end - begin);
  if (out_begin_ == out_end_) out_begin_ = begin;
  out_end_ = end;
}

void TokenRows::move_back(std::int64_t from) {
  QUIRE_CHECK(from % 16 == 0, "slot ", from);
  if (from >= out_end_) return;
  from = from < out_begin_ ? out_begin_ : from;
  copy(slots_ + from, from, out_end_ - from);
  forget(slots_ + from, out_end_ - from);
  out_end_ = from;
  if (out_begin_ == out_end_) out_begin_ = out_end_ = 0;
}

std::int64_t TokenRows::bytes_per_token() const { return kv_bytes_per_token(dtype_, G_, K_, U_); }

}  // namespace quire::cache

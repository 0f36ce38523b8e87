#pragma once

#include <cstdint>
#include <vector>

#include "quire/base/dtype.h"
#include "quire/cache/kv_cache.h"
#include "quire/cache/reserved.h"
#include "quire/ops/attention/kv_write.h"

namespace quire::cache {

/// The tokens of one layer, each key beside its value, head by head: what is selected token by
/// token is fetched in one piece. Every token lies in one of two arenas of the same form, and one
/// view reaches both: where a token lies changes its place in a table, and nothing else.
class TokenRows {
 public:
  /// dtype: f32, bf16, f16 or i8. Throws ArgumentError, OutOfMemory.
  TokenRows(const LayerSpec& spec, std::int64_t slots, DType dtype);

  /// Tokens into slots first, first + 1, … of the first arena.
  void write(const Tensor& k_NGK, const Tensor& v_NGU, std::int64_t first);

  /// Moves slots [begin, end) to the second arena; they follow those that are there. Both are
  /// multiples of 16. The memory that they leave is returned.
  void move_out(std::int64_t begin, std::int64_t end);
  /// Moves back what lies in the second arena from slot `from` on, a multiple of 16.
  void move_back(std::int64_t from);
  std::int64_t out_begin() const { return out_begin_; }
  std::int64_t out_end() const { return out_end_; }

  /// Both arenas as pages of Z slots (Z divides 64), for tables; the caller adds lengths.
  KvView view(std::int64_t Z) const;
  /// The page of a slot in view(1), and in view(16) that of 16 slots from `slot` on.
  std::int32_t place(std::int64_t slot) const {
    return static_cast<std::int32_t>(slot >= out_begin_ && slot < out_end_ ? slots_ + slot : slot);
  }
  std::int32_t page_of_16(std::int64_t slot) const { return place(slot) / 16; }
  /// Slots [begin, begin + n) as a sequence of their own. They lie in one arena.
  KvView stretch(std::int64_t begin, std::int64_t n) const;

  /// The key and the value of a slot as they lie, one row; and the scales of all its heads, null
  /// where there are none.
  std::byte* row(std::int64_t g, std::int64_t slot) const {
    return rows_.data() + (2 * slots_ * g + place(slot)) * row_bytes();
  }
  std::byte* key_scales(std::int64_t slot) const { return scales(k_scale_, slot); }
  std::byte* value_scales(std::int64_t slot) const { return scales(v_scale_, slot); }
  std::int64_t row_bytes() const { return (K_ + U_) * static_cast<std::int64_t>(size_of(dtype_)); }

  std::int64_t slots() const { return slots_; }
  /// Keys, values and scales of a token, all heads.
  std::int64_t bytes_per_token() const;

 private:
  std::byte* scales(const Reserved& of, std::int64_t slot) const {
    return of.data() + place(slot) * G_ * static_cast<std::int64_t>(of.bytes() / scale_slots());
  }
  std::uint64_t scale_slots() const { return static_cast<std::uint64_t>(2 * slots_ * G_); }
  KvPages pages(std::int64_t P, std::int64_t Z) const;
  void copy(std::int64_t from, std::int64_t to, std::int64_t n);
  void forget(std::int64_t first, std::int64_t n);

  std::int64_t G_, K_, U_, slots_;
  DType dtype_;
  Reserved rows_, k_scale_, v_scale_;
  std::int64_t out_begin_ = 0, out_end_ = 0;
};

}  // namespace quire::cache

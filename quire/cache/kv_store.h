#pragma once

#include <cstdint>
#include <span>
#include <vector>

#include "quire/base/dtype.h"
#include "quire/cache/kv_cache.h"
#include "quire/cache/reserved.h"
#include "quire/ops/attention/kv_write.h"

namespace quire::cache {

/// Up to whole tiles of 64: tiles of attention end inside a store.
std::int64_t whole_tiles(std::int64_t slots);
/// Tokens into slots first, first + 1, … of pages.
void write_from(const KvPages& pages, const Tensor& k_NGK, const Tensor& v_NGU, std::int64_t first);

/// The keys and values of one layer in slots, head by head; memory is committed as it fills.
class KvStore {
 public:
  /// dtype: what stores_kv() says. Throws ArgumentError, OutOfMemory.
  KvStore(const LayerSpec& spec, std::int64_t slots, DType dtype, KLayout layout);

  /// Tokens into slots first, first + 1, …
  void write(const Tensor& k_NGK, const Tensor& v_NGU, std::int64_t first);
  /// One page that holds all, up to slot `end`; the caller adds lengths.
  KvView view(std::int64_t end) const;
  /// Pages of Z slots each, for tables; Z divides 64, and is a multiple of 16 where keys lie in
  /// blocks.
  KvView paged_view(std::int64_t Z) const;

  /// Copies slots of another store of the same sizes and dtype, of head g, to slots 0, 1, …
  void copy(const KvStore& from, std::int64_t g, std::span<const std::int32_t> slots);
  /// Copies the first slots of another store with the same sizes, dtype and layout; of kRows.
  void copy(const KvStore& from, std::int64_t tokens);
  /// The first slots as they lie (of blocks whole ones): keys, values, scales; and back. `bytes`
  /// has stretch_bytes(tokens).
  std::int64_t stretch_bytes(std::int64_t tokens) const;
  std::vector<std::byte> stretch(std::int64_t tokens) const;
  void set_stretch(std::span<const std::byte> bytes, std::int64_t tokens);
  /// Keys [tokens, K] and values [tokens, U] of a head, widened: of the first slots, or of those
  /// from `first` on.
  void widen(std::int64_t g, std::int64_t tokens, float* k_SK, float* v_SU) const {
    widen(g, 0, tokens, k_SK, v_SU);
  }
  void widen(std::int64_t g, std::int64_t first, std::int64_t tokens, float* k_SK,
             float* v_SU) const;

  std::int64_t slots() const { return slots_; }
  /// Keys, values and scales of a token, all heads.
  std::int64_t bytes_per_token() const;

 private:
  /// Calls f(first byte, bytes) for each part of the first slots.
  template <class F>
  void each_stretch(std::int64_t tokens, F&& f) const {
    const std::int64_t keys = layout_ == KLayout::kBlocks ? (tokens + 15) / 16 * 16 : tokens;
    for (std::int64_t g = 0; g < G_; ++g) f(k_.data() + g * slots_ * k_row_, keys * k_row_);
    for (std::int64_t g = 0; g < G_; ++g) f(v_.data() + g * slots_ * v_row_, tokens * v_row_);
    const auto scale = static_cast<std::int64_t>(k_scale_.bytes()) / slots_;
    for (const Reserved* of : {&k_scale_, &v_scale_})
      if (scale > 0) f(of->data(), tokens * scale);
  }
  /// A stretch of a row in a block of 16 keys: lane i has it `bytes` · i behind `offset`.
  struct Part {
    std::int64_t offset, bytes;
  };

  KvPages pages(std::int64_t P, std::int64_t Z) const;
  const std::byte* value_row(std::int64_t g, std::int64_t slot) const;
  /// The bytes of a key, one after another, out of its place and into it.
  void take_key(std::int64_t g, std::int64_t slot, std::byte* row) const;
  void put_key(std::int64_t g, std::int64_t slot, const std::byte* row);

  std::int64_t G_, K_, U_, slots_;
  DType dtype_;
  KLayout layout_;
  std::int64_t k_row_, v_row_;  // bytes
  std::vector<Part> parts_;     // of a key, in the order of its bytes
  Reserved k_, v_, k_scale_, v_scale_;
};

}  // namespace quire::cache

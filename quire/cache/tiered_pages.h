#pragma once

#include <cstddef>
#include <cstdint>
#include <memory>
#include <optional>
#include <span>
#include <string>
#include <vector>

#include "quire/base/dtype.h"
#include "quire/cache/kv_cache.h"
#include "quire/cache/reserved.h"
#include "quire/cache/tier.h"
#include "quire/ops/attention/kv_write.h"

namespace quire::cache {

/// The tokens of a TieredCache under a memory limit: pages of 16 tokens of one kv head of one
/// layer, each key beside its value. A Tier says which of them are in memory; the rest lies in its
/// file. Slots are places of tokens: their positions, or what the cache arranged them to be, so
/// that tokens that are wanted together come from the disk together.
class TieredPages {
 public:
  static constexpr std::int64_t kTokens = 16;

  /// limit.ram_bytes > 0, and less than the cache takes (see needs_tier).
  /// Throws ArgumentError as check_limit does; OutOfMemory; IoError when there can be no file.
  TieredPages(std::vector<LayerSpec> layers, std::int64_t capacity, DType kv,
              const MemoryLimit& limit, const std::string& identity = {});
  ~TieredPages();
  TieredPages(const TieredPages&) = delete;
  TieredPages& operator=(const TieredPages&) = delete;

  /// Throws ArgumentError for a limit below two layers, naming them in bytes; for a file that does
  /// not fit into limit.disk_bytes; for layers whose rows differ in size. False where there is no
  /// limit, or all fits into it.
  static bool needs_tier(const std::vector<LayerSpec>& layers, std::int64_t capacity, DType kv,
                         const MemoryLimit& limit);
  /// The smallest limit: two layers of all tokens.
  static std::int64_t least_ram_bytes(const std::vector<LayerSpec>& layers, std::int64_t capacity,
                                      DType kv);

  /// Tokens into slots first, first + 1, … Throws as Tier::lease does; nothing is written then.
  void write(std::int64_t layer, const Tensor& k_NGK, const Tensor& v_NGU, std::int64_t first);

  /// Pages of a layer in memory, as long as it lives; nobody else reads or writes then.
  class Reading {
   public:
    /// All frames as one page of rows.
    KvView rows() const;
    /// The row of a slot that was asked for.
    std::int32_t place(std::int64_t g, std::int64_t slot) const;
    /// Slots [begin, end), multiples of 16 but for `end`, as a sequence of their own, without
    /// lengths. It holds until the next call.
    KvView stretch(std::int64_t begin, std::int64_t end);
    /// The tokens whose slots are told, [G, N], as a sequence of their own. Likewise.
    KvView tokens(std::span<const std::int32_t> slot_GN, std::int64_t N);
    /// Begins to read those pages of another layer.
    void read_ahead(std::int64_t layer, std::span<const std::int32_t> pages) {
      lease_.read_ahead(layer, pages);
    }
    std::span<const std::int32_t> pages() const { return pages_; }

   private:
    friend class TieredPages;
    Reading(const TieredPages& of, std::int64_t layer, std::vector<std::int32_t> pages);

    const TieredPages* of_;
    std::int64_t layer_;
    std::vector<std::int32_t> pages_, table_;
    Tier::Lease lease_;
  };
  /// Slots [begin, end) of all heads, of each range. Throws as Tier::lease does.
  struct Range {
    std::int64_t begin, end;
  };
  Reading read(std::int64_t layer, std::span<const Range> ranges) const;
  /// The slots of each head.
  Reading read(std::int64_t layer, std::span<const std::vector<std::int32_t>> slots_G) const;

  /// Slot begin + i of head g then holds what slot begin + from_G[g][i] held; the slots of
  /// `reading`, multiples of 16.
  void arrange(Reading& reading, std::int64_t begin,
               std::span<const std::vector<std::int32_t>> from_G);
  /// The rows of the slots that are told, [G, N], with their scales [N, G]; and into slots 0, 1, …
  std::vector<std::byte> rows(Reading& reading, std::span<const std::int32_t> slot_GN,
                              std::int64_t N) const;
  void set_rows(std::int64_t layer, std::span<const std::byte> bytes, std::int64_t N);
  /// Slots from `slot` on are of no more use, as far as whole pages.
  void forget_from(std::int64_t slot);

  /// The first slot that the disk lost since this was asked last.
  std::optional<std::int64_t> take_lost();
  TierCounts counts() const { return tier_->counts(); }
  std::int64_t ram_bytes() const { return frames_ * frame_bytes(); }

 private:
  struct Rows;
  const LayerSpec& spec_at(std::int64_t layer) const {
    return layers_[static_cast<std::size_t>(layer)];
  }
  std::int32_t page_of(std::int64_t g, std::int64_t slot) const {
    return static_cast<std::int32_t>(g * per_head_ + slot / kTokens);
  }
  KvPages places(std::int64_t layer, std::int64_t Z) const;
  std::int64_t frame_bytes() const { return kTokens * (row_bytes_ + 2 * scale_bytes_); }

  std::vector<LayerSpec> layers_;
  DType kv_;
  std::int64_t per_head_, frames_ = 0, row_bytes_ = 0, scale_bytes_ = 0;  // bytes of a token
  std::int64_t used_ = 0;                                                 // slots
  std::optional<std::int64_t> lost_;
  std::optional<Reserved> rows_, k_scale_, v_scale_;
  std::unique_ptr<Tier> tier_;
};

}  // namespace quire::cache

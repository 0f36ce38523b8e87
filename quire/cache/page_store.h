#pragma once

#include <cstddef>
#include <cstdint>
#include <functional>
#include <memory>
#include <optional>
#include <span>
#include <vector>

#include "quire/cache/kv_cache.h"
#include "quire/cache/reserved.h"
#include "quire/cache/tier.h"
#include "quire/ops/attention/kv_write.h"

namespace quire::cache {

/// The memory of a pool of pages. A page holds the keys and values of `Z` tokens for all layers and
/// heads, each side of a layer at a multiple of 64 bytes, heads one after another; the scales of i8
/// lie apart. Without a limit a page is one stretch, and memory is committed as pages are first
/// written. With one, each layer of a page is a stretch of its own (a frame), and a Tier says which
/// of them are in memory.
class PageStore {
 public:
  /// `lost` is told which pages a tier lost. Throws ArgumentError (sizes, dtype; a limit below
  /// least_ram_bytes, or that the rest does not fit into limit.disk_bytes), OutOfMemory (no address
  /// range), IoError.
  PageStore(std::vector<LayerSpec> layers, std::int64_t pages, std::int64_t Z, DType kv,
            const MemoryLimit& limit = {}, const std::string& identity = {},
            std::function<void(std::int32_t)> lost = {});

  /// Throws what the constructor throws of the limit.
  static void check_limit(const std::vector<LayerSpec>& layers, std::int64_t pages, std::int64_t Z,
                          DType kv, const MemoryLimit& limit);
  /// The smallest memory limit of such a store: two layers of all its pages.
  static std::int64_t least_ram_bytes(const std::vector<LayerSpec>& layers, std::int64_t pages,
                                      std::int64_t Z, DType kv);

  const std::vector<LayerSpec>& layers() const { return layers_; }
  std::int64_t Z() const { return Z_; }
  DType kv() const { return kv_; }
  /// Keys in blocks of 16 where Z allows it, else in rows.
  KLayout k_layout() const { return Z_ % 16 == 0 ? KLayout::kBlocks : KLayout::kRows; }
  /// Null without a memory limit, and where everything fits into it.
  Tier* tier() const { return tier_.get(); }

  /// Writes tokens of a layer; slot_N i64: page · Z + slot. Throws as kv_write and Tier::lease do.
  void write(std::int64_t layer, const Tensor& k_NGK, const Tensor& v_NGU, const Tensor& slot_N);

  /// Pages of a layer to be read, as long as it lives: nobody else reads then where there is a
  /// tier.
  class Reading {
   public:
    /// With table (the given one, or one of frames) and W = its size, without lengths.
    KvView view;

   private:
    friend class PageStore;
    std::vector<std::int32_t> frames_;
    std::optional<Tier::Lease> lease_;
  };
  /// `table` of page numbers, −1 where there is none; it must outlive what is returned. Throws as
  /// Tier::lease does.
  Reading read(std::int64_t layer, std::span<const std::int32_t> table) const;
  /// Where the pages of a layer lie; the view is without table and lengths. Throw ArgumentError
  /// where there is a tier: pages come and go.
  KvPages pages(std::int64_t layer) const;
  KvView view(std::int64_t layer) const;

  /// The first `slots` tokens of page `from` into page `to`; the rest of it stays as it was.
  void copy(std::int32_t from, std::int32_t to, std::int64_t slots);
  /// What the page holds is of no more use.
  void forget(std::int32_t page);

  /// Bytes of a page's keys and values, and of its scales, over all layers: what a saved cache has
  /// of it.
  std::int64_t data_bytes() const { return data_bytes_; }
  std::int64_t scale_bytes() const { return scale_bytes_; }
  /// A page's keys and values where they lie; empty where there is a tier.
  std::span<std::byte> data(std::int32_t page) const;
  /// The first `slots` tokens of a page, zeros in the rest: out has data_bytes().
  void copy_data(std::int32_t page, std::int64_t slots, std::span<std::byte> out) const;
  void set_data(std::int32_t page, std::span<const std::byte> from);
  /// The scales of a page's first `slots` tokens, layer by layer, keys then values; zeros behind.
  void copy_scales(std::int32_t page, std::int64_t slots, std::span<std::byte> out) const;
  void set_scales(std::int32_t page, std::span<const std::byte> from);

  std::int64_t bytes_per_token() const;

 private:
  struct Layer {
    std::int64_t k = 0, v = 0;  // where its keys and values begin in a page's stretch, in bytes
    // And where they begin in a page's part of the data of a saved cache: the same without a tier.
    std::int64_t saved_k = 0, saved_v = 0;
    std::int64_t k_bytes = 0, v_bytes = 0;  // padded
    std::size_t scales = 0;                 // which of scales_, the values' behind the keys'
  };
  struct Sides {
    std::byte *k, *v;
  };
  const Layer& layer_at(std::int64_t layer) const;
  KvPages places(std::int64_t layer) const;
  Sides sides(std::size_t i, std::int64_t place) const;
  Sides saved_sides(std::size_t i, std::byte* stretch) const;
  void copy_tokens(std::size_t i, const Sides& from, const Sides& to, std::int64_t slots) const;
  std::int64_t scale_row(std::size_t i) const;
  template <class F>
  void each_scale(std::size_t i, std::int64_t place, F&& f) const;
  template <class F>
  void each_layer(std::int32_t page, F&& f) const;
  void make_tier(const MemoryLimit& limit, const std::string& identity, std::int64_t pages,
                 std::function<void(std::int32_t)> lost);

  std::vector<LayerSpec> layers_;
  std::vector<Layer> places_;
  // places: pages, or frames; a place's stretch has `stride_` bytes
  std::int64_t P_, Z_, data_bytes_ = 0, scale_bytes_ = 0, stride_ = 0;
  DType kv_;
  Reserved data_;
  std::vector<Reserved> scales_;
  std::unique_ptr<Tier> tier_;
};

}  // namespace quire::cache

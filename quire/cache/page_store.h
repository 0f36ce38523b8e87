#pragma once

#include <cstddef>
#include <cstdint>
#include <span>
#include <vector>

#include "quire/cache/kv_cache.h"
#include "quire/cache/reserved.h"
#include "quire/ops/attention/kv_write.h"

namespace quire::cache {

/// The memory of a pool of pages. A page holds the keys and values of `Z` tokens for all layers and
/// heads in one stretch, each side of a layer at a multiple of 64 bytes, heads one after another;
/// the scales of i8 lie apart, by layer. Memory is committed as pages are first written.
class PageStore {
 public:
  /// Throws ArgumentError (sizes, dtype), OutOfMemory (no address range).
  PageStore(std::vector<LayerSpec> layers, std::int64_t pages, std::int64_t Z, DType kv);

  const std::vector<LayerSpec>& layers() const { return layers_; }
  std::int64_t Z() const { return Z_; }
  DType kv() const { return kv_; }
  /// Keys in blocks of 16 where Z allows it, else in rows.
  KLayout k_layout() const { return Z_ % 16 == 0 ? KLayout::kBlocks : KLayout::kRows; }

  KvPages pages(std::int64_t layer) const;
  /// Without table and lengths.
  KvView view(std::int64_t layer) const;

  /// The first `slots` tokens of page `from` into page `to`; the rest of it stays as it was.
  void copy(std::int32_t from, std::int32_t to, std::int64_t slots);

  /// Bytes of a page's keys and values, and of its scales.
  std::int64_t data_bytes() const { return data_bytes_; }
  std::int64_t scale_bytes() const { return scale_bytes_; }
  std::span<std::byte> data(std::int32_t page) const;
  /// The first `slots` tokens of a page, zeros in the rest: out has data_bytes().
  void copy_data(std::int32_t page, std::int64_t slots, std::span<std::byte> out) const;
  /// The scales of a page's first `slots` tokens, layer by layer, keys then values; zeros behind.
  void copy_scales(std::int32_t page, std::int64_t slots, std::span<std::byte> out) const;
  void set_scales(std::int32_t page, std::span<const std::byte> from);

  std::int64_t bytes_per_token() const;

 private:
  struct Layer {
    std::int64_t k = 0, v = 0;  // where its keys and values begin in a page, in bytes
    Reserved k_scale, v_scale;
  };
  const Layer& layer_at(std::int64_t layer) const;
  void copy_tokens(const std::byte* from, std::byte* to, std::int64_t slots) const;
  template <class F>
  void each_scale(std::int32_t page, F&& f) const;

  std::vector<LayerSpec> layers_;
  std::vector<Layer> places_;
  std::int64_t P_, Z_, data_bytes_ = 0, scale_bytes_ = 0;
  DType kv_;
  Reserved data_;
};

}  // namespace quire::cache

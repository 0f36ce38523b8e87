#pragma once

// What a MergedCache is made of; merged.cpp has what it promises, merged_merge.cpp what happens
// when reading ends and when decoded tokens are merged.

#include <cstdint>
#include <optional>
#include <span>
#include <vector>

#include "quire/base/error.h"
#include "quire/cache/kv_store.h"
#include "quire/cache/merge_keys.h"
#include "quire/cache/merged.h"
#include "quire/cache/query_observer.h"

namespace quire::cache {

/// One layer of the cache.
struct MergedLayer {
  LayerSpec spec;
  std::optional<KvStore> all;   // while reading, and of a layer that stays whole
  std::optional<KvStore> kept;  // entries, then the tokens after the context
  std::vector<float> bias;      // [slots, G] of `kept`
  QueryObserver observer;
  std::int64_t length = 0;         // with the tokens of the step under way
  MergedEntries entries;           // numbers only: keys and values are in `kept`
  std::int64_t count = 0;          // of entries, in each head
  double mass = 0;                 // that the reading's tokens received, over all heads
  std::vector<double> mass_SG;     // of `kept` since the last merge; where merging goes on
  std::vector<float> queries_NHK;  // the last ones, likewise
  std::int64_t bytes_read = 0;
  std::int64_t keys = 0;  // of the view
};

inline AttentionSpec behind(const LayerSpec& layer) {
  AttentionSpec spec = layer.attention;
  spec.alignment = Alignment::kBottomRight;
  return spec;
}

/// What stands beside a query is moved when keys leave: such layers stay whole.
inline bool stands_by_distance(const LayerSpec& layer) {
  return layer.attention.window_left != kUnlimited || layer.attention.slope_H != nullptr;
}

struct MergedCache::Impl {
  MergeOptions options;
  Budget budget;
  DType kv = DType::kF32;
  std::int64_t capacity = 0, length = 0, context = -1, budget_tokens = -1;
  std::vector<MergedLayer> layers;

  MergedLayer& layer_at(std::int64_t layer) {
    QUIRE_CHECK(layer >= 0 && layer < static_cast<std::int64_t>(layers.size()), "layer is ", layer,
                ", but the cache has ", layers.size());
    return layers[static_cast<std::size_t>(layer)];
  }
  const MergedLayer& merged_at(std::int64_t layer) {
    const MergedLayer& of = layer_at(layer);
    QUIRE_CHECK(of.kept.has_value(), "nothing was merged in layer ", layer);
    return of;
  }
  bool is_whole(const MergedLayer& layer) const {
    const std::int64_t i = &layer - layers.data();
    return stands_by_distance(layer.spec) || i < options.whole_first ||
           i >= static_cast<std::int64_t>(layers.size()) - options.whole_last;
  }
  /// Entries and tokens of each head.
  std::int64_t keys_in(const MergedLayer& layer) const {
    return layer.kept ? layer.count + layer.length - context : layer.length;
  }
  std::int64_t row_bytes(const MergedLayer& layer) const;  // of one head's entry, or token
  std::int64_t stored_bytes(const MergedLayer& layer) const;
  /// What a layer attends to; it lives in the layer.
  KvView view_of_layer(MergedLayer& layer) const;

  /// Entries of a head of a layer that take no more bytes than so many tokens.
  std::int64_t entries_of(const MergedLayer& layer, std::int64_t tokens) const;
  std::int64_t tokens_of_each() const;
  void merge_all();
  MergeSource source_of(const MergedLayer& layer) const;
  MergeSource reading(MergedLayer& layer) const;
  MergeSource stream(MergedLayer& layer) const;
  void merge(MergedLayer& layer, const MergeSource& from, std::int64_t M) const;
  void watch(MergedLayer& layer, const Tensor& q_NHK, const Tensor& lse_NH,
             const KvView& view) const;
  void go_on();

  // merged_saved.cpp
  void set_layer(MergedLayer& layer, std::span<const std::byte> bytes, std::int64_t tokens);
};

}  // namespace quire::cache

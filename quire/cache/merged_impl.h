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

/// What one kv head keeps: entries, then the tokens after the context.
struct MergedHead {
  KvStore store;             // of this head alone
  std::vector<float> bias;   // of its slots
  std::int64_t count = 0;    // of entries
  std::vector<double> mass;  // of its keys since the last merge; where merging goes on
};

/// One layer of the cache.
struct MergedLayer {
  LayerSpec spec;
  std::optional<KvStore> all;    // while reading, and of a layer that stays whole
  std::vector<MergedHead> kept;  // of each kv head; empty: nothing was merged
  QueryObserver observer;
  std::int64_t length = 0;         // with the tokens of the step under way
  MergedEntries entries;           // numbers only: keys and values are in `kept`
  std::int64_t count = 0;          // of entries, in the head that has most
  double mass = 0;                 // that the reading's tokens received, over all heads
  std::vector<float> queries_NHK;  // the last ones; where merging goes on
  std::int64_t bytes_read = 0;
};

/// For so many entries; all in slots of its own.
MergedHead empty_head(const LayerSpec& layer, std::int64_t count, std::int64_t slots, DType kv);

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
  std::int64_t reread = 0;      // tokens that were read a second time
  std::int64_t reread_at = -1;  // tokens that stay of a second reading under way; else −1
  std::vector<MergedLayer> layers;

  MergedLayer& layer_at(std::int64_t layer) {
    QUIRE_CHECK(layer >= 0 && layer < static_cast<std::int64_t>(layers.size()), "layer is ", layer,
                ", but the cache has ", layers.size());
    return layers[static_cast<std::size_t>(layer)];
  }
  const MergedLayer& merged_at(std::int64_t layer) {
    const MergedLayer& of = layer_at(layer);
    QUIRE_CHECK(!of.kept.empty(), "nothing was merged in layer ", layer);
    return of;
  }
  bool is_whole(const MergedLayer& layer) const {
    const std::int64_t i = &layer - layers.data();
    return stands_by_distance(layer.spec) || i < options.whole_first ||
           i >= static_cast<std::int64_t>(layers.size()) - options.whole_last;
  }
  /// Entries and tokens of a head.
  std::int64_t keys_in(const MergedLayer& layer, std::int64_t g) const {
    return layer.kept.empty()
               ? layer.length
               : layer.kept[static_cast<std::size_t>(g)].count + layer.length - context;
  }
  std::int64_t row_bytes(const MergedLayer& layer) const;  // of one head's entry, or token
  std::int64_t stored_bytes(const MergedLayer& layer) const;
  Tensor attend_merged(MergedLayer& layer, const Tensor& q_NHK) const;

  /// Entries of a head of a layer that take no more bytes than so many tokens.
  std::int64_t entries_of(const MergedLayer& layer, std::int64_t tokens) const;
  std::int64_t entries_even(const MergedLayer& layer, std::int64_t tokens) const;
  std::int64_t tokens_of_each() const;
  void merge_all();
  /// The attention by which keys are judged, [G, S].
  Tensor scores(MergedLayer& layer) const;
  /// Entries of each head of these layers, which have `each` on average; mass_GS: scores() of each
  /// layer.
  std::vector<std::vector<std::int64_t>> share(std::span<MergedLayer* const> of,
                                               std::span<const Tensor> mass_GS,
                                               std::int64_t each) const;
  MergeSource source_of(const MergedLayer& layer) const;
  MergeSource reading(MergedLayer& layer, const Tensor& mass_GS) const;
  MergeSource stream(MergedLayer& layer) const;
  void merge(MergedLayer& layer, const MergeSource& from) const;
  void put_kept(MergedLayer& layer, const Tensor& k_NGK, const Tensor& v_NGU) const;
  void go_on();

  // merged_saved.cpp
  MergedHead take_head(std::span<const std::byte>& bytes, MergedLayer& layer, std::int64_t g,
                       std::int64_t tokens) const;
  void set_layer(MergedLayer& layer, std::span<const std::byte> bytes, std::int64_t tokens);
};

}  // namespace quire::cache

#pragma once

// What a PolicyCache is made of; policy_cache.cpp has what it promises, policy_cache_reading.cpp
// what happens when reading ends, policy_cache_step.cpp what happens in each step.

#include <cstdint>
#include <memory>
#include <optional>
#include <span>
#include <vector>

#include "quire/base/error.h"
#include "quire/cache/kv_store.h"
#include "quire/cache/policy_cache.h"
#include "quire/cache/query_observer.h"
#include "quire/ops/attention/attention.h"

namespace quire::cache {

/// Places in the context, ascending.
using Positions = std::vector<std::int32_t>;

/// One layer of the cache.
struct PolicyLayer {
  LayerSpec spec;
  std::optional<KvStore> all;    // every token; gone after an eviction
  std::optional<KvStore> kept;   // what an eviction left, then the tokens after the context
  std::int64_t kept_tokens = 0;  // of the context
  std::vector<float> bias;       // [slots, G] of `kept` or, for one query, of `all`
  QueryObserver observer;
  std::int64_t length = 0;          // with the tokens of the step under way
  std::vector<Positions> selected;  // per kv head; empty: everything
  std::int64_t bytes_read = 0;      // by the last token
  double mass = 1;                  // of its attention, over all heads
};

/// The attention of a layer behind a cache.
inline AttentionSpec bottom_right(const LayerSpec& layer) {
  AttentionSpec spec = layer.attention;
  spec.alignment = Alignment::kBottomRight;
  return spec;
}

/// Scores of these depend on where a key stands beside the query: keys cannot be left out there
/// without moving others.
inline bool by_distance(const LayerSpec& layer) {
  return layer.attention.window_left != kUnlimited || layer.attention.slope_H != nullptr;
}

/// Throws ArgumentError for what a policy may not select.
void check_selection(const Positions& at, std::int64_t context, const Policy& policy);

/// What the queries of a step selected, and what stands beside it.
struct Selected {
  std::vector<Positions> at_NG;
  std::vector<float> bias_NGS;         // empty: all are 0
  std::vector<StandIns> stand_ins_NG;  // empty: none
};

struct PolicyCache::Impl {
  std::unique_ptr<Policy> policy;
  Budget budget;
  Measure measure = Measure::kNothing;
  DType kv = DType::kF32;
  std::int64_t capacity = 0, length = 0, context = -1, budget_tokens = -1;
  std::int64_t reread = 0;      // tokens that were read a second time
  std::int64_t reread_at = -1;  // tokens that stay of a second reading under way; else −1
  bool attended = false;        // since reading ended
  std::vector<PolicyLayer> layers;

  PolicyLayer& at(std::int64_t layer) {
    QUIRE_CHECK(layer >= 0 && layer < static_cast<std::int64_t>(layers.size()), "layer is ", layer,
                ", but the cache has ", layers.size());
    return layers[static_cast<std::size_t>(layer)];
  }
  std::int64_t index_of(const PolicyLayer& layer) const { return &layer - layers.data(); }
  bool is_dense(const PolicyLayer& layer) const {
    return by_distance(layer.spec) || policy->is_dense(index_of(layer));
  }
  /// Whether the policy leaves anything of the layer out.
  bool is_active(const PolicyLayer& layer) const {
    return context >= 0 && budget_tokens < context && !is_dense(layer);
  }

  HeadContext head_context(PolicyLayer& layer, std::int64_t g) {
    HeadContext head;
    head.layer = index_of(layer);
    head.g = g;
    head.spec = &layer.spec;
    head.tokens = context;
    head.budget = budget_tokens;
    KvView view = layer.all->view(context);
    view.length_BG = &context;
    layer.observer.tell(head, view);
    return head;
  }

  // What happens when reading ends.
  void take_budget(std::int64_t tokens);
  void take_read_budget();
  void decide_all();
  void decide(PolicyLayer& layer);
  void keep(PolicyLayer& layer, const std::vector<Positions>& selected,
            const std::vector<std::vector<float>>& biases);

  // What happens in a step.
  AttentionResult over_all(PolicyLayer& layer, const Tensor& q_NHK) const;
  AttentionResult over_kept(PolicyLayer& layer, const Tensor& q_NHK, const float* bias) const;
  Tensor over_what_was_kept(PolicyLayer& layer, const Tensor& q_NHK);
  Tensor over_selected(PolicyLayer& layer, const Tensor& q_NHK);
  Tensor over_selected_by_heads(PolicyLayer& layer, const Tensor& q_NHK);
  std::vector<float> query_mass(PolicyLayer& layer, const Tensor& q_1HK, std::int64_t end) const;
  Selected select(PolicyLayer& layer, const Tensor& q_NHK);
  AttentionResult attend_biased(PolicyLayer& layer, const Tensor& q_NHK,
                                const Selected& selected) const;
  AttentionResult with_stand_ins(const PolicyLayer& layer, const Tensor& q_NHK,
                                 const AttentionResult& exact,
                                 std::span<const StandIns> stand_ins_NG) const;
  AttentionResult attend_rows(PolicyLayer& layer, const Tensor& q_NHK, std::int64_t first_row,
                              std::span<const Positions> selected, const float* bias,
                              const float* sink_H) const;
  std::int64_t per_head(const PolicyLayer& layer) const {
    return (layer.kept ? *layer.kept : *layer.all).bytes_per_token() / layer.spec.G;
  }
  std::int64_t stored_bytes(const PolicyLayer& layer) const;
};

}  // namespace quire::cache

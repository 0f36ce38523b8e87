#pragma once

// What a TieredCache is made of; tiered.cpp has what it promises, tiered_search.cpp which clusters
// a query looks at, tiered_tokens.cpp which of their tokens it attends to exactly, tiered_step.cpp
// the attention of each query, tiered_storage.cpp where the tokens are.

#include <cstdint>
#include <limits>
#include <memory>
#include <optional>
#include <span>
#include <vector>

#include "quire/base/error.h"
#include "quire/cache/cluster_index.h"
#include "quire/cache/tiered.h"
#include "quire/cache/tiered_pages.h"
#include "quire/cache/token_rows.h"
#include "quire/ops/attention/attention.h"
#include "quire/ops/search/listed_attention.h"

namespace quire::cache {

/// One layer of the cache.
struct TieredLayer {
  LayerSpec spec;
  TokenRows rows;
  std::optional<ClusterIndex> index;  // nothing for a layer that is left whole
  std::int64_t length = 0;            // with the tokens of the step under way

  // Of the last token.
  std::int64_t selected = 0, estimated = 0, bytes_hot = 0, bytes_slow = 0, bytes_index = 0;
  double mass_exact = 1, mass_estimated = 0;
  std::vector<std::int32_t> asked = {};  // pages, under a memory limit: read ahead the next time

  std::int64_t indexed() const { return index ? index->end() : -1; }
};

/// Keys that are named one by one for each kv head, with scores or without.
class KeyList {
 public:
  /// Room for W keys of each head.
  KeyList(std::int64_t G, std::int64_t W, std::int64_t scored_heads = 0)
      : W_(W),
        slot_GW_(std::make_unique_for_overwrite<std::int32_t[]>(static_cast<std::size_t>(G * W))),
        length_G_(static_cast<std::size_t>(G)),
        score_HW_(scored_heads == 0 ? nullptr
                                    : std::make_unique_for_overwrite<float[]>(
                                          static_cast<std::size_t>(scored_heads * W))) {}

  void add(std::int64_t g, std::int64_t slot) {
    slots(g)[length_G_[static_cast<std::size_t>(g)]++] = static_cast<std::int32_t>(slot);
  }
  /// Room for those of kv head g, for all at once; set_length() says how many there are.
  std::int32_t* slots(std::int64_t g) { return slot_GW_.get() + g * W_; }
  void set_length(std::int64_t g, std::int64_t n) { length_G_[static_cast<std::size_t>(g)] = n; }
  /// Of query head h, in the order of the keys that its kv head lists.
  float* scores(std::int64_t h) { return score_HW_.get() + h * W_; }
  std::int64_t length(std::int64_t g) const { return length_G_[static_cast<std::size_t>(g)]; }
  ListedKeys keys(const KvView& rows) const {
    return {rows, slot_GW_.get(), W_, length_G_.data(), score_HW_.get(), nullptr};
  }

 private:
  std::int64_t W_;
  std::unique_ptr<std::int32_t[]> slot_GW_;
  std::vector<std::int64_t> length_G_;
  std::unique_ptr<float[]> score_HW_;
};

/// What a budget comes to for a query: pages of the index to open and tokens of the context to
/// attend to exactly, for each kv head; of a budget of bytes also how many there are for both, of
/// all kv heads (else −1).
struct TieredPlan {
  std::int64_t pages = 0, tokens = 0, bytes = -1;
};

/// What is looked at token by token, of all kv heads: tokens, and clusters with an estimate.
struct TieredShortlist {
  double tokens = 0, clusters = 0;
};

/// Keys that are listed, and the hold on the memory where they lie.
struct HeldKeys {
  KeyList list;
  KvView rows;
  std::optional<TieredPages::Reading> reading;  // under a memory limit

  ListedKeys keys() const { return list.keys(rows); }
};

/// The tokens of a layer in the order of their positions, without lengths.
struct HeldTokens {
  KvView view;
  std::vector<std::int32_t> table;
  std::optional<TieredPages::Reading> reading;
};

/// What a kv head attends to exactly, and what it looked at token by token.
struct TieredHead {
  std::int64_t tokens = 0;            // attended to
  std::int64_t whole = 0;             // clusters of which all tokens are
  std::int64_t looked_at = 0;         // tokens of the shortlist,
  std::int64_t first = 0;             // and how many those of the heads before have
  std::vector<SketchRun> runs;        // the members of its clusters,
  std::vector<std::int32_t> of_run;   // and which of the C clusters that is
  std::vector<std::int32_t> in_part;  // runs of which not all tokens are attended to
  Tensor share_RL;                    // what each query of the group gives each of their tokens
};

/// What a query does not attend to exactly: clusters that were not taken, and pages, not opened or
/// in part.
struct TieredRest {
  KeyList clusters, pages;
};

/// What one query looks at: C clusters of each kv head, and the tokens of those of the shortlist;
/// and what it attends to exactly.
struct TieredFound {
  std::vector<std::int32_t> opened_GW;  // pages of the index; empty: all
  std::int64_t C = 0, W = 0;
  Tensor score_1HC;                   // scale · q·centroid + log n
  Tensor mass_1HC, super_mass_1HP;    // with variance, or softcapped; the latter with two levels
  Tensor rank_GC, size_GC, short_GC;  // f32, i64 and u8: whether it is on the shortlist
  std::vector<float> total_H;         // the log-sum-exp of everything, by clusters
  std::vector<float> rank;            // of the tokens of the shortlists, head after head
  std::vector<std::uint8_t> is_taken;
  std::vector<TieredHead> heads_G;

  /// Which cluster of the index the c-th is.
  std::int64_t cluster(std::int64_t g, std::int64_t c) const {
    constexpr std::int64_t page = ClusterIndex::kPage;
    if (opened_GW.empty()) return c;
    return opened_GW[static_cast<std::size_t>(g * W + c / page)] * page + c % page;
  }
  const TieredHead& head(std::int64_t g) const { return heads_G[static_cast<std::size_t>(g)]; }
  TieredHead& head(std::int64_t g) { return heads_G[static_cast<std::size_t>(g)]; }
  /// Of the query heads of a kv head.
  std::span<const float> totals(std::int64_t g) const {
    const std::size_t R = total_H.size() / heads_G.size();
    return std::span(total_H).subspan(static_cast<std::size_t>(g) * R, R);
  }
  const std::int64_t* sizes(std::int64_t g) const { return size_GC.data<std::int64_t>() + g * C; }
  std::span<const std::uint8_t> shortlist(std::int64_t g) const {
    return {short_GC.data<std::uint8_t>() + g * C, static_cast<std::size_t>(C)};
  }
  /// Of the tokens of its shortlist, run after run; 16 places more may be read.
  const std::uint8_t* taken(std::int64_t g) const { return is_taken.data() + head(g).first; }
  /// Calls f(member) for each token that kv head g attends to exactly; member: which of all of the
  /// index.
  template <class F>
  void each_taken(std::int64_t g, F&& f) const {
    const std::uint8_t* at = taken(g);
    for (const SketchRun& run : head(g).runs)
      for (std::int64_t i = 0; i < run.n; ++i)
        if (*at++ != 0) f(run.begin + i);
  }
};

/// Which clusters of those that a kv head looked at stand with their page: 0 of a mask, else −inf;
/// and which pages those are.
struct TieredTogether {
  std::span<const float> mask_C;
  std::span<const std::uint8_t> is_page;
};

/// The attention to sinks, staging and recent tokens; and the log-sum-exp over them and, with two
/// levels, over what was not opened.
struct TieredKnown {
  AttentionResult hot;
  Tensor lse_1H;
};

inline constexpr float kNone = -std::numeric_limits<float>::infinity();

/// log(e^a + e^b)
double log_add(double a, double b);
/// A score that was not softcapped when its centroid was scored; log n comes on top.
float capped(float mass, float log_count, double softcap);
void check_budget(const SearchBudget& budget);

struct TieredCache::Impl {
  TieredSpec spec;
  DType kv = DType::kF32;
  std::int64_t capacity = 0, length = 0, built = -1;  // the length at the last build()
  bool attended = false;                              // since then
  bool offloaded = false;
  std::vector<TieredLayer> layers;
  std::unique_ptr<TieredPages> disk;  // under a memory limit; else tokens are in their layer's rows

  TieredLayer& at(std::int64_t layer) {
    QUIRE_CHECK(layer >= 0 && layer < static_cast<std::int64_t>(layers.size()), "layer is ", layer,
                ", but the cache has ", layers.size());
    return layers[static_cast<std::size_t>(layer)];
  }

  void check_between_steps() const;
  void index_up_to(TieredLayer& layer, std::int64_t end);
  /// Indexes what left the recent zone when the layer's length was `end`.
  void follow(TieredLayer& layer, std::int64_t end);
  TieredZones zones(const TieredLayer& layer, std::int64_t length) const;

  bool covers(const TieredLayer& layer, const SearchBudget& budget, std::int64_t end) const;

  // tiered_search.cpp
  TieredPlan plan(const TieredLayer& layer, const SearchBudget& budget, std::int64_t end) const;
  std::int64_t pages_to_open(const TieredLayer& layer, std::int64_t budget_tokens) const;
  double index_bytes_of_page(const TieredLayer& layer) const;
  /// Bytes of the index that a query reads, members aside.
  std::int64_t index_bytes_read(const TieredLayer& layer, std::int64_t open,
                                const TieredShortlist& of) const;
  void look(const TieredLayer& layer, const Tensor& q_1HK, TieredFound& found,
            TieredKnown& known) const;
  void open_best(const TieredLayer& layer, std::int64_t g, TieredFound& found,
                 TieredKnown& known) const;
  struct OpenedClusters;
  OpenedClusters opened(const TieredLayer& layer, std::int64_t g, TieredFound& found) const;
  void rank(const TieredLayer& layer, const Tensor& q_1HK, std::int64_t g, TieredFound& found,
            const TieredKnown& known) const;
  TieredFound find(TieredLayer& layer, const Tensor& q_1HK, std::int64_t end,
                   const SearchBudget& budget, TieredKnown& known) const;

  // tiered_tokens.cpp
  void shorten(const TieredLayer& layer, TieredFound& found, const SearchBudget& budget,
               std::int64_t budget_tokens) const;
  void look_closer(const TieredLayer& layer, const Tensor& q_1HK, std::int64_t g,
                   TieredFound& found) const;
  /// Tokens that all rows of a choice take together: of a kv head, or of all that share bytes.
  std::int64_t tokens_to_take(const TieredLayer& layer, const TieredFound& found,
                              const SearchBudget& budget, const TieredPlan& plan) const;
  void choose(const TieredLayer& layer, TieredFound& found, const SearchBudget& budget,
              std::int64_t tokens, const TieredKnown& known) const;
  void count_taken(TieredFound& found, std::int64_t g) const;
  TieredShortlist shortlist_of(const TieredFound& found) const;
  double sketched(const TieredFound& found, std::int64_t h, bool is_taken) const;
  double rest_of(const TieredFound& found, std::int64_t h) const;

  // tiered_storage.cpp
  std::int64_t number_of(const TieredLayer& layer) const { return &layer - layers.data(); }
  void write(TieredLayer& layer, const Tensor& k_NGK, const Tensor& v_NGU);
  void index_stretch(TieredLayer& layer, std::int64_t begin, std::int64_t end);
  void drop_behind(TieredLayer& layer, std::int64_t end, bool empties);
  /// Sinks, staging and recent tokens.
  HeldKeys hot_keys(TieredLayer& layer, std::int64_t end) const;
  /// The tokens of the clusters that were taken: where they may lie on a disk; else room for them,
  /// which list_tokens() fills head by head.
  HeldKeys selected_keys(TieredLayer& layer, const TieredFound& found) const;
  void list_tokens(const TieredLayer& layer, const TieredFound& found, std::int64_t g,
                   KeyList& to) const;
  HeldTokens all_tokens(TieredLayer& layer, std::int64_t end) const;
  /// Where a layer's tokens are, of each head in the order of the text.
  std::vector<std::int32_t> slots_of(const TieredLayer& layer, std::int64_t end) const;
  std::vector<std::byte> rows_of(const TieredLayer& layer) const;
  void set_rows(TieredLayer& layer, std::span<const std::byte> bytes, std::int64_t tokens);
  void read_ahead(const TieredLayer& layer, TieredPages::Reading& reading) const;

  // tiered_step.cpp
  AttentionResult over_all(TieredLayer& layer, const Tensor& q_NHK, std::int64_t end) const;
  AttentionResult over_hot(TieredLayer& layer, const Tensor& q_1HK, std::int64_t end) const;
  Tensor best_rest(const TieredFound& found, std::int64_t g, double share) const;
  void add_rest(const TieredLayer& layer, const TieredFound& found, std::int64_t g,
                TieredRest& to) const;
  void add_sketched(const TieredFound& found, std::int64_t g, KeyList& to) const;
  void add_own(const TieredLayer& layer, const TieredFound& found, std::int64_t g,
               std::span<const std::int32_t> own_C, KeyList& to) const;
  void add_pages(const TieredLayer& layer, const TieredFound& found, std::int64_t g,
                 const TieredTogether& of, KeyList& to) const;
  void add_closed(const TieredLayer& layer, const TieredFound& found, std::int64_t g,
                  KeyList& to) const;
  void note_mass(TieredLayer& layer, const TieredFound& found, const TieredKnown& known,
                 const Tensor& exact_1H, const Tensor& whole_1H) const;
  AttentionResult attend_row(TieredLayer& layer, const Tensor& q_1HK, std::int64_t end);
  void note(TieredLayer& layer, const TieredFound& found, std::int64_t end,
            std::int64_t pages) const;
};

}  // namespace quire::cache

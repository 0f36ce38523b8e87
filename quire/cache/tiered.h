#pragma once

#include <cstdint>
#include <memory>
#include <optional>
#include <vector>

#include "quire/base/dtype.h"
#include "quire/cache/kv_cache.h"
#include "quire/cache/tier.h"
#include "quire/ops/search/cluster_keys.h"

namespace quire::cache {

/// How many tokens of the indexed context a query attends to exactly, per layer and kv head: the
/// one of these that is not negative.
struct SearchBudget {
  std::int64_t tokens = -1;
  double fraction = -1;  // of the indexed tokens, in (0, 1]; rounded down
  double mass = -1;      // in (0, 1]: until each head of the group has this part of its attention
  /// In (0, 1]: so many that a step reads this part of what the full cache would, index and hot
  /// zones included.
  double read = -1;
  // Bounds of the last three.
  std::int64_t min_tokens = 64;
  std::int64_t max_tokens = INT64_MAX;
};

/// Zones, index and budget of a TieredCache.
struct TieredSpec {
  SearchBudget budget = {.read = 0.25};
  std::int64_t sinks = 16;     // a multiple of 16
  std::int64_t recent = 64;    // at least
  std::int64_t staging = 256;  // tokens that are indexed together, a multiple of 16
  ClusterSpec clusters = {.tokens_per_cluster = 16};  // twice as many from 65,536 tokens on
  /// The tokens of the best clusters are looked at one by one, in two bits a number: so many times
  /// what the budget takes.
  std::int64_t shortlist = 5;
  /// Whether what was not selected is estimated: clusters that were looked at and, as long as there
  /// are two levels, those that were not. Else it is dropped.
  bool estimate = true;
  /// What was not selected of the shortlist is estimated with the mean values of its clusters, and
  /// so is this part of the other clusters that were looked at, the best; what is left of a
  /// super-cluster stands together, with its mean value.
  double own_values = 0;
  /// From so many indexed tokens on, clusters are looked for in two levels: of the super-clusters
  /// (16 clusters each) this many are opened for a kv head, or more where the budget asks for it.
  /// 0: three quarters as many bytes of the index as the budget has of keys and values.
  std::int64_t two_levels_from = 0;
  std::int64_t opened = 0;
  /// With a limit, what memory has no room for lies in a file, clusters in one piece. Not a bit
  /// depends on it.
  MemoryLimit memory = {};
};

/// Where the tokens of a layer are; they add up to the length.
struct TieredZones {
  std::int64_t sink = 0, context = 0, staging = 0, recent = 0;
};

/// What the last token of the last step did, over all layers.
struct TieredFigures {
  TieredZones zones;             // of the first layer that is not dense
  std::int64_t clusters = 0;     // of the index, all layers and kv heads
  std::int64_t selected = 0;     // tokens, all layers and kv heads
  std::int64_t estimated = 0;    // clusters and super-clusters
  std::int64_t bytes_hot = 0;    // read: keys and values of hot zones, and what was not offloaded
  std::int64_t bytes_slow = 0;   // read: keys and values that were offloaded
  std::int64_t bytes_index = 0;  // read: centroids, sketches, mean values, lists of members
  std::int64_t bytes_offloaded = 0;  // stored there
  double mass_exact = 1;  // of the attention, by the estimate; mean over layers and heads
  double mass_estimated = 0;
};

/// What search() found for one kv head.
struct FoundTokens {
  std::vector<std::int32_t> positions;  // cluster after cluster, the best cluster not first
  std::vector<float> scores;  // of each: what it is estimated to receive from the heads of the
                              // group, whose attention adds up to 1 each
};

/// What search() found.
struct SearchResult {
  std::vector<FoundTokens> heads_G;
  std::vector<double>
      covered_H;  // of the attention to all tokens, by the estimate; hot zones count
};

/// The heterogeneous cache of one sequence: sink · context · staging · recent.
///
/// Reading is exact: until build() every query attends to all earlier keys. build() (end_reading()
/// calls it) clusters what was read, but for the sinks and the last tokens, per kv head. From there
/// on a query attends
///
///   exactly    to sinks, staging, recent tokens, and the tokens that search() finds for it
///   estimated  to all others: by their sketches, where their cluster was looked into, with its
///              mean value; else by mean key, mean value, log n and variance of their cluster
///
/// merged by their log-sum-exp; nothing is left out silently. Tokens that follow are recent, then
/// in staging; when that is full it is clustered, too. Which tokens are in which zone depends on
/// the length alone. offload() moves the context to an arena of its own (memory that a step
/// touches only where it attends exactly); the index stays. Under a memory limit all tokens are in
/// pages that a file takes and gives back: a step reads those with selected tokens, and while one
/// layer is computed those that the next one needed last time. append(), attend(), build() and
/// truncate() then also throw IoError, when a page cannot be read back as it was written, or
/// written at all; nothing else is ever read in its place. While a document is read, recover()
/// leaves what is still whole; from build() on it cannot.
///
/// Layers with a sliding window, ALiBi or a mask are left whole. A budget that covers the context
/// gives the bits of a ContiguousCache.
///
/// report()  bytes_read of the last token of the last step: keys and values attended to exactly,
///           index and members. bytes_stored: keys and values, wherever they lie, and the index.
///           mass by the estimate.
/// Order     bits depend neither on threads, nor on how many queries come at once, nor on where
///           tokens lie.
/// Memory    each query by itself: a table of what it attends to. Address range for twice the
///           capacity.
/// Source    RetroInfer 2025 (zones, segmented clustering); Multipole 2025 (estimate of all);
///           sketches: quire/ops/search/key_sketches.h.
class TieredCache : public KvCache {
 public:
  /// kv: f32, bf16, f16 or i8. Throws ArgumentError (sizes, dtype, spec, a memory limit as
  /// check_memory does), OutOfMemory; IoError where there can be no file.
  TieredCache(std::vector<LayerSpec> layers, const TieredSpec& spec, std::int64_t capacity,
              DType kv);
  ~TieredCache() override;
  /// Throws ArgumentError for a memory limit below two layers of all tokens, naming it in bytes;
  /// for a file that its bound does not hold; for layers that differ in size.
  static void check_memory(const std::vector<LayerSpec>& layers, std::int64_t capacity, DType kv,
                           const MemoryLimit& memory);

  std::int64_t length() const override;
  std::int64_t capacity() const override;
  void append(std::int64_t layer, const Tensor& k_NGK, const Tensor& v_NGU) override;
  Tensor attend(std::int64_t layer, const Tensor& q_NHK) override;
  /// The same with its log-sum-exp, for a merge with other keys.
  AttentionResult attend_part(std::int64_t layer, const Tensor& q_NHK);
  void advance(std::int64_t tokens) override;
  /// Down to what was there at the last build(): an answer can be taken back. Throws ArgumentError
  /// below it, unless all goes; then reading begins anew.
  void truncate(std::int64_t length) override;
  bool recover() override;
  void end_reading() override { build(); }
  /// Keys and values: the index is made of them again, with the same bits. So a document can be
  /// reopened under another budget, or with other zones.
  std::vector<std::byte> layer_bytes(std::int64_t layer) const override;
  void restore(std::int64_t length, const LayerBytes& layer) override;
  CacheReport report() const override;
  std::int64_t bytes() const override;
  std::int64_t bytes_per_token() const override;

  /// Indexes all that is behind the sinks and before the last `recent` tokens, unless it is less
  /// than `staging`. Throws ArgumentError within a step.
  void build();
  /// The context, and what joins it, lies in the arena from here on; and back. Throws ArgumentError
  /// within a step.
  void offload();
  void reload();

  /// What a query of a layer finds in the context. q_HK: turned, f32. Throws ArgumentError on
  /// shapes and the budget.
  SearchResult search(std::int64_t layer, const Tensor& q_HK, const SearchBudget& budget);
  /// At most so many tokens for each kv head.
  SearchResult search(std::int64_t layer, const Tensor& q_HK, std::int64_t top_k);

  /// From here on; an answer can go on under another one. Throws ArgumentError for one that is no
  /// budget.
  void set_budget(const SearchBudget& budget);
  const TieredSpec& spec() const;
  TieredZones zones(std::int64_t layer) const;
  TieredFigures figures() const;
  /// Nothing without a memory limit, or where everything fits into it.
  std::optional<TierCounts> tier_counts() const;

 private:
  struct Impl;
  std::unique_ptr<Impl> impl_;
};

}  // namespace quire::cache

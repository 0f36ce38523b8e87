#pragma once

#include <cstdint>
#include <memory>
#include <span>
#include <string_view>
#include <vector>

#include "quire/cache/kv_cache.h"

namespace quire::cache {

/// How many tokens of the context are attended exactly in each step, per layer and kv head.
struct Budget {
  std::int64_t tokens = -1;  // -1: the fraction counts
  double fraction = 1;       // of the context, in (0, 1]; rounded down, as kvpress does
  // Above 0, in its place: the part of the bytes of the whole context that a step reads, with the
  // index of a policy that has one and the layers that it leaves whole.
  double read = 0;

  /// For a context of so many tokens, at most all of them; of `read` where only tokens are read.
  /// Throws ArgumentError for a field out of range.
  std::int64_t of(std::int64_t context) const;
};

/// kOnce: when reading ends, and what is not kept is gone (eviction). kEachStep: for every query
/// anew, and everything stays stored (selection).
enum class Decide : std::uint8_t { kOnce, kEachStep };

/// What a policy must be told, and what the cache therefore computes. A mass is the attention that
/// each key received, summed over queries and over the query heads of its kv head.
struct Observe {
  bool reading_mass = false;  // from every query of the reading
  std::int64_t window = 0;    // from those of its last tokens, so many; 0: not asked for
  bool query_mass = false;    // at a step: from the queries of that step
  // Above 0: each piece of so many tokens is read twice (KvCache::reread_tokens()), and the largest
  // probability counts that each key received in that.
  std::int64_t reread = 0;
  // Mean and covariance of the queries of the reading before they were turned (LayerSpec::rope).
  bool moments = false;
  std::int64_t moments_from = 0;  // the first token whose query counts

  /// Whether all that `other` asks for is among what this asks for.
  bool covers(const Observe& other) const;
};

/// One layer and kv head, as a policy sees it. R = H / G query heads read the kv head.
struct HeadContext {
  std::int64_t layer = 0, g = 0;
  const LayerSpec* spec = nullptr;
  std::int64_t tokens = 0;  // S of the context: of what was read before reading ended
  std::int64_t budget = 0;  // tokens to select
  // As stored, widened to f32, when the decision is made once or an index is built; empty at a
  // step.
  std::span<const float> k_SK = {}, v_SU = {};
  // At a step: the queries, turned; one where a policy is not shared by the group.
  std::span<const float> q_RK = {};
  std::span<const float> reading_mass_S = {}, window_mass_S = {}, query_mass_S = {};
  std::span<const float> reread_peak_S = {};           // Observe::reread
  std::span<const double> mean_RK = {}, cov_RKK = {};  // Observe::moments, per query head

  std::int64_t group() const { return spec->H / spec->G; }
};

/// Keys of one kv head that stand for others: E rows, each with what is added to its score (log n
/// where it stands for n keys).
struct StandIns {
  std::vector<float> k_EK, v_EU, bias_E;
};

/// What a cache keeps of its context, or attends to. A researcher writes one class with name(),
/// score(), and where the defaults do not fit the rest: PolicyCache does everything else. One
/// object serves one cache. score(), select() and bias() are called from several threads.
class Policy {
 public:
  virtual ~Policy() = default;

  virtual std::string_view name() const = 0;
  virtual Decide decide() const { return Decide::kOnce; }
  virtual Observe observe() const { return {}; }
  /// The smallest budget that the policy can work with.
  virtual std::int64_t floor_tokens() const { return sinks() + recent() + 1; }
  /// Of kEachStep: false: each query head selects for itself, without bias() and stand_ins(); what
  /// the heads of a group selected together is read.
  virtual bool shared_by_group() const { return true; }
  /// Layers that are left whole. (Those with a sliding window or ALiBi always are.)
  virtual bool is_dense(std::int64_t /*layer*/) const { return false; }

  /// Tokens at the beginning and at the end of the context that are always selected.
  virtual std::int64_t sinks() const { return 0; }
  virtual std::int64_t recent() const { return 0; }

  /// Called for each layer and head when reading ends, before anything is scored; of kEachStep.
  virtual void build(const HeadContext& /*head*/) {}
  /// A number for each key of the context: higher is better.
  virtual void score(const HeadContext& head, std::span<float> score_S) const = 0;
  /// Positions in the context, ascending; kOnce: equally many for all heads of a layer. Default:
  /// sinks and recent ones, then the best scores, up to the budget; of equal ones the earlier.
  virtual std::vector<std::int32_t> select(const HeadContext& head,
                                           std::span<const float> score_S) const;
  /// A number for each selected key that is added to its score; false: all are 0.
  virtual bool bias(const HeadContext& /*head*/, std::span<const std::int32_t> /*selected*/,
                    std::span<float> /*bias*/) const {
    return false;
  }
  /// Of kEachStep: keys of the policy's own that are attended to beside the selected ones, such as
  /// the centroids of what was not selected. What they take to read is part of index_bytes_read().
  virtual StandIns stand_ins(const HeadContext& /*head*/,
                             std::span<const std::int32_t> /*selected*/) const {
    return {};
  }

  /// Of a layer's index, all heads: bytes stored, and bytes that a step reads.
  virtual std::int64_t index_bytes(std::int64_t /*layer*/) const { return 0; }
  virtual std::int64_t index_bytes_read(std::int64_t layer) const { return index_bytes(layer); }
};

/// The default of Policy::select with these many always selected at both ends.
std::vector<std::int32_t> best_positions(std::span<const float> score_S, std::int64_t budget,
                                         std::int64_t sinks, std::int64_t recent);

/// The positions of the `pages` best pages of so many tokens, the last page always among them; a
/// page has the score of its first key.
std::vector<std::int32_t> best_pages(std::span<const float> score_S, std::int64_t page_tokens,
                                     std::int64_t pages);

}  // namespace quire::cache

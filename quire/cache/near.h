#pragma once

#include <cstdint>
#include <memory>
#include <optional>
#include <vector>

#include "quire/base/dtype.h"
#include "quire/cache/kv_cache.h"
#include "quire/cache/tiered.h"

namespace quire::cache {

/// What a NearCache lets a query see.
struct NearSpec {
  std::int64_t near = 4096;  // tokens at their true distance: the query's own and those before it
  std::int64_t sinks = 16;   // the first tokens of the text, which every query sees
  /// Where tokens go that are no longer near: nothing, they are dropped; else into a TieredCache.
  std::optional<TieredSpec> far = {};
};

/// Positions inside the cache: the cache of one sequence that may be longer than its model was
/// trained for, because no query is ever further from a key than near + sinks tokens. A query
/// attends
///
///   near   to the last `near` tokens, its own included, at their true distance
///   sinks  to the first ones, where it stands behind the window that follows them: never further
///          than near + sinks − 1 from the first (the positions of StreamingLLM)
///   far    after end_reading(), with spec.far: to all tokens before the near ones, sinks included,
///          through a TieredCache of its own, all at the distance `near` (InfLLM)
///
/// While a document is read there are only the near ones and the sinks: each token costs the same,
/// however long the text is; the others wait, unturned, to be indexed. So what a query sees of a
/// document of more than near + sinks tokens is not what an ordinary cache has it see, whatever the
/// budget: keys deep in the model know what stood near to them.
///
/// Up to `near` tokens answers have the bits of a ContiguousCache; up to near + sinks tokens they
/// are its answers to rounding. Without `far` a document takes no more memory the longer it is, but
/// for the angles of its positions (RopeTable); what comes after end_reading() stays, so that an
/// answer can be taken back.
///
/// Layers with a sliding window, ALiBi or a mask are refused, and those whose keys are not turned.
///
/// report()  bytes_read, mass: near tokens, and sinks or what TieredCache says of the far ones;
///           what was dropped counts in neither
/// Order     bits depend neither on threads, nor on how many queries come at once
/// Memory    near tokens, up to 255 and a step more of them while a document is read, and the far
///           ones. Address range for twice the capacity.
/// Source    Xiao et al. 2023 (StreamingLLM); Xiao et al. 2024 (InfLLM: one distance for all that
///           is far).
class NearCache : public KvCache {
 public:
  /// kv: what stores_kv() says; with `far` what a TieredCache takes. Throws ArgumentError (sizes,
  /// dtype, spec, a layer that it refuses, a memory limit of `far`), OutOfMemory.
  NearCache(std::vector<LayerSpec> layers, const NearSpec& spec, std::int64_t capacity, DType kv);
  ~NearCache() override;

  std::int64_t length() const override;
  std::int64_t capacity() const override;
  void append(std::int64_t layer, const Tensor& k_NGK, const Tensor& v_NGU) override;
  Tensor attend(std::int64_t layer, const Tensor& q_NHK) override;
  void advance(std::int64_t tokens) override;
  /// Down to what was there at end_reading(), or all. Throws ArgumentError below it, and while a
  /// document is read also where the keys near to the last token left have made room.
  void truncate(std::int64_t length) override;
  void end_reading() override;
  CacheReport report() const override;
  std::int64_t bytes() const override;
  std::int64_t bytes_per_token() const override;

  /// Of the far tokens, from here on, as TieredCache takes it. Throws ArgumentError without `far`.
  void set_budget(const SearchBudget& budget);
  const NearSpec& spec() const;
  /// What holds the far tokens; null without.
  const TieredCache* far() const;

 private:
  struct Impl;
  std::unique_ptr<Impl> impl_;
};

}  // namespace quire::cache

#pragma once

#include <cstdint>
#include <memory>
#include <vector>

#include "quire/base/dtype.h"
#include "quire/cache/kv_cache.h"
#include "quire/cache/policy.h"

namespace quire::cache {

/// What a PolicyCache finds out about itself beyond its work. kMass: the attention that its exact
/// keys received, which takes a pass over all keys each step, and keeps them for it (they count
/// nowhere in the report).
enum class Measure : std::uint8_t { kNothing, kMass };

/// The cache that runs a policy over one sequence.
///
/// Reading is exact: until end_reading() every query attends to all earlier keys. What was read is
/// then the context, and from there on every query attends to what the policy selects of it, under
/// the budget, and to all tokens that came after it. The policy never sees those before it decides:
/// compression knows the document, not the question. Positions stay those of the text.
///
///   kOnce       what is not kept is gone, its memory is returned; all heads of a layer keep
///               equally many
///   kEachStep   every query selects for itself, also of those that come in one step
///
/// A budget that covers the context gives the bits of a ContiguousCache, before and after.
///
/// report()  bytes_read: of the last token of the last step: keys, values and scales that it
///           attended to, and the index; before there was one, of all that is kept. bytes_stored:
///           keys, values and scales that are kept, biases, and the index.
class PolicyCache : public KvCache {
 public:
  /// kv: what stores_kv() says. Throws ArgumentError (sizes, dtype, and a budget under the policy's
  /// floor, which it names; of a fraction when reading ends), OutOfMemory.
  PolicyCache(std::vector<LayerSpec> layers, std::unique_ptr<Policy> policy, Budget budget,
              std::int64_t capacity, DType kv, Measure measure = Measure::kNothing);
  ~PolicyCache() override;

  /// A cache that has read the same and goes on under another policy or budget: one reading serves
  /// many. Throws ArgumentError once reading has ended, for a policy that asks for observations
  /// that this one's does not (all_observing_policy), and as the constructor does.
  std::unique_ptr<PolicyCache> with(std::unique_ptr<Policy> policy, Budget budget,
                                    Measure measure = Measure::kNothing) const;
  /// The same for a cache that exists: an empty one holds what `other` has read, as if it had read
  /// it. Throws ArgumentError when this one is not empty, for other layers, another dtype or too
  /// small a capacity, and as with().
  void take_over(const PolicyCache& other);

  std::int64_t length() const override;
  std::int64_t capacity() const override;
  void append(std::int64_t layer, const Tensor& k_NGK, const Tensor& v_NGU) override;
  Tensor attend(std::int64_t layer, const Tensor& q_NHK) override;
  void advance(std::int64_t tokens) override;
  /// Down to the end of the context: an answer can be taken back. Throws ArgumentError below it,
  /// and before reading ends where the policy has seen what would go (unless all goes).
  void truncate(std::int64_t length) override;
  std::int64_t reread_tokens() const override;
  void begin_reread() override;
  void end_reread() override;
  /// Applies the budget. Throws ArgumentError when it was called before, within a step, for a
  /// budget under the floor (of Budget::read: under what the index and that floor take to read),
  /// and when the policy selects what it may not.
  void end_reading() override;
  CacheReport report() const override;
  std::int64_t bytes() const override;
  /// While reading.
  std::int64_t bytes_per_token() const override;

  const Policy& policy() const;
  DType kv() const;
  /// Tokens of the context; −1 while it is read.
  std::int64_t context() const;
  /// Tokens of the context that the policy may select; −1 while it is read.
  std::int64_t budget_tokens() const;
  /// What was selected of the context: kOnce for good, kEachStep for the last token. Ascending; all
  /// of a layer that is dense. Throws ArgumentError before reading ended.
  std::vector<std::int32_t> selected(std::int64_t layer, std::int64_t g) const;

 private:
  friend class MergedCache;  // takes over what was read
  struct Impl;
  std::unique_ptr<Impl> impl_;
};

}  // namespace quire::cache

#pragma once

#include <cstdint>
#include <memory>
#include <string>
#include <string_view>
#include <vector>

#include "quire/base/dtype.h"
#include "quire/cache/kv_cache.h"
#include "quire/cache/policy.h"
#include "quire/cache/policy_cache.h"
#include "quire/ops/merge/match_neighbours.h"

namespace quire::cache {

/// What becomes of a group of keys. kValuesOnly: the key of its heaviest member stays, values are
/// averaged. kEvict: that member alone stays.
enum class MergeMode : std::uint8_t { kKeysAndValues, kValuesOnly, kEvict };

/// How keys find their groups. kNeighbours: the most similar pairs within a window, round after
/// round. kAdjacent: neighbours in the text that received least attention. kKept: the keys that
/// received most attention stay where they are, and every other joins the most similar of them.
enum class MergeGroups : std::uint8_t { kNeighbours, kAdjacent, kKept };

/// What a key counts in the mean. kMass: the attention that it received. kCosine: softmax of its
/// cosine to the kept key (of kKept). kSquaredMass: of keys the square of that attention; of values
/// the tokens that they stand for.
enum class MergeWeights : std::uint8_t { kMass, kCosine, kSquaredMass };

/// The bias of a merged key. kLogCount: log of its tokens. kFitted: fit_bias() to the document's
/// last queries. kVotes: log of its tokens, moved so that the weighted mean of the members' log
/// attention gives the attention of all. kNone: none.
enum class MergeBias : std::uint8_t { kLogCount, kFitted, kVotes, kNone };

/// Which attention tells heavy keys: of the whole reading; of its last queries, averaged over five
/// neighbours; or the sum of the two as shares, that of the reading by queries that saw the key.
/// kReread: the largest probability that a key received while each piece was read a second time;
/// kRecent where nothing was.
enum class MergeMass : std::uint8_t { kReading, kRecent, kBoth, kReread };

/// What is merged, how, and what is not. The defaults are what was best on the texts to tune on.
struct MergeOptions {
  MergeMode mode = MergeMode::kKeysAndValues;
  MergeGroups groups = MergeGroups::kKept;
  MergeWeights weights = MergeWeights::kMass;
  MergeBias bias = MergeBias::kFitted;
  MergeMass mass = MergeMass::kReread;
  // Pairs are made as long as there are any like these; where the budget is not met then, of less
  // similar ones, of larger groups and at last of any distance. Of kKept: a key less similar than
  // the threshold to all that are kept is dropped.
  double threshold = 0.8;
  std::int64_t window = 64;    // positions
  std::int64_t group_cap = 8;  // tokens
  Centre centre = Centre::kRaw;
  double round = 0.25;   // of the keys that may become others' in one round, at most
  double count_cap = 0;  // of kSquaredMass: the largest count that a merged key has; 0: any
  // Above 0: values are then moved towards what the document's last queries got, by least squares;
  // the larger, the less.
  double ridge = 10;
  // So much of the entries goes where the need is: to those heads of all layers whose keys, beyond
  // what each head has for itself, have the largest scores. None where stream_tokens > 0.
  double shared = 0.5;
  // What no merge touches: first tokens; last tokens, at least so many and this share of the
  // entries; and so many of the heaviest that they all make up the share `heavy` of the entries (of
  // kKept: all entries).
  std::int64_t sinks = 4;
  std::int64_t recent = 64;
  double recent_share = 0.25;
  double heavy = 0.7;
  std::int64_t reread = 1024;    // of kReread: tokens of a piece
  std::int64_t probes = 256;     // last queries of the reading that are kept for mass and bias
  std::int64_t whole_first = 0;  // layers that are not merged, within the same budget
  std::int64_t whole_last = 0;
  std::int64_t stream_tokens = 0;  // tokens after the document that are merged too; 0: never
};

/// A cache whose context becomes fewer keys, each of which stands for several tokens.
///
/// Reading is exact: until end_reading() every query attends to all earlier keys. Then similar keys
/// become one, a mean of keys and of values with a bias that carries their number, until so many
/// entries are left that they take the bytes of the budget's tokens, biases included: some for each
/// head, the others where they are needed most. What is decided is decided from the document's own
/// queries; of kReread it wants each piece read twice (reread_tokens()).
///
/// A budget that covers the context gives the bits of a ContiguousCache. With stream_tokens > 0 the
/// tokens after the document are merged into the entries whenever there are that many (without the
/// last `recent` ones): then truncate() goes back no further.
///
/// report()  bytes_read: keys, values, scales and biases that the last token attended to.
///           bytes_stored: all that are kept. mass: the part of what judged the keys that fell on
///           tokens for which an entry stands: 1 where none was dropped.
///
/// Source  Kim et al. 2025 (KVzip: a document that is read again tells what its keys are worth,
///         and heads share a budget), KeepKV 2025 (votes), Bolya et al. 2023 (bipartite matching,
///         log of the size), Attention Matching 2026 (fitted bias), Liu et al. 2023 and Zhang et
///         al. 2023 (heavy hitters).
class MergedCache : public KvCache {
 public:
  /// kv: what stores_kv() says. Throws ArgumentError (options, sizes, dtype, a budget under
  /// floor_tokens(), which it names; of a fraction when reading ends), OutOfMemory.
  MergedCache(std::vector<LayerSpec> layers, const MergeOptions& options, Budget budget,
              std::int64_t capacity, DType kv);
  ~MergedCache() override;

  /// An empty cache holds what `other` has read, as if it had read it: one reading serves many.
  /// Throws ArgumentError when this one is not empty, once the other's reading has ended, for a
  /// policy that did not observe what observe() asks for, other layers, another dtype or a capacity
  /// that is too small.
  void take_over(const PolicyCache& other);

  std::int64_t length() const override;
  std::int64_t capacity() const override;
  void append(std::int64_t layer, const Tensor& k_NGK, const Tensor& v_NGU) override;
  Tensor attend(std::int64_t layer, const Tensor& q_NHK) override;
  void advance(std::int64_t tokens) override;
  /// Down to the end of what was merged. Throws ArgumentError below it, and before reading ends
  /// unless all goes.
  void truncate(std::int64_t length) override;
  std::int64_t reread_tokens() const override;
  void begin_reread() override;
  void end_reread() override;
  /// Merges. Throws ArgumentError when it was called before, within a step, and for a budget under
  /// the floor.
  void end_reading() override;
  /// The entries. What is restored has the budget with which it was merged.
  std::vector<std::byte> layer_bytes(std::int64_t layer) const override;
  void restore(std::int64_t length, const LayerBytes& layer) override;
  CacheReport report() const override;
  std::int64_t bytes() const override;
  std::int64_t bytes_per_token() const override;

  const MergeOptions& options() const;
  DType kv() const;
  /// What it wants to know of the reading's queries.
  Observe observe() const;
  /// Tokens that were merged; −1 while the document is read.
  std::int64_t context() const;
  std::int64_t budget_tokens() const;
  /// Entries of a head of a layer; of its largest one; and f32 [G, entries of that]: the tokens
  /// that each stands for, and the attention that those received, 0 behind a head's last. Throw
  /// ArgumentError before anything was merged.
  std::int64_t entries(std::int64_t layer, std::int64_t g) const;
  std::int64_t entries(std::int64_t layer) const;
  Tensor counts_GM(std::int64_t layer) const;
  Tensor masses_GM(std::int64_t layer) const;
  /// Tokens of the context that no entry stands for, over all heads.
  std::int64_t dropped(std::int64_t layer) const;

  /// The smallest budget that options can work with.
  static std::int64_t floor_tokens(const MergeOptions& options);

 private:
  struct Impl;
  std::unique_ptr<Impl> impl_;
};

/// "merged", "keepkv", "asymkv", "notebook_merge", "notebook_merge_count".
const std::vector<std::string>& merge_names();
bool is_merge_name(std::string_view name);

/// The options of that name:
///
///   merged                what was best on the texts to tune on (docs/merged_cache.md)
///   keepkv                heavy and last tokens are kept, each other joins the most similar of
///                         them from a cosine of 0.8 on, with votes
///   asymkv                neighbours with the least attention; keys by the diagonal of the Fisher
///                         information as far as attention alone gives it, values by counts up to 5
///   notebook_merge        as keepkv, but by softmax of cosines, all of them, and without a count
///   notebook_merge_count  the same with log of the count
///
/// Throws ArgumentError for another name.
/// Source  KeepKV: Tian et al. 2025; AsymKV: Cui and Xu 2025.
MergeOptions merge_options(std::string_view name);

}  // namespace quire::cache

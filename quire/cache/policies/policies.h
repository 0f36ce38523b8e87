#pragma once

#include <cstdint>
#include <memory>
#include <string>
#include <string_view>
#include <vector>

#include "quire/base/dtype.h"
#include "quire/cache/policy.h"
#include "quire/cache/policy_cache.h"

namespace quire::cache {

/// Keeps everything.
std::unique_ptr<Policy> full_policy();

/// The first tokens and the last ones: the floor that others must beat. Unlike StreamingLLM's own
/// code, keys keep their positions, as kvpress has it.
/// Source  Xiao et al. 2023 (StreamingLLM): 4 sinks.
struct WindowParameters {
  std::int64_t sinks = 4;
};
std::unique_ptr<Policy> window_policy(const WindowParameters& parameters = {});

/// The keys that each query attends to most, as its full attention says: the ceiling of selection,
/// not a method. Shared by the heads of a group: their attention is summed after each head's
/// softmax. Its figures do not count the keys that it looks at.
std::unique_ptr<Policy> oracle_policy();

/// Keys drawn without replacement, for every layer and head by itself, once; the same for the same
/// seed.
struct RandomParameters {
  std::uint64_t seed = 0;
};
std::unique_ptr<Policy> random_policy(const RandomParameters& parameters = {});

/// For each query the pages with the highest bound on q·k, from the smallest and the largest of
/// each number of their keys: Σ_i max(q_i·min_i, q_i·max_i), summed over the heads of a group.
/// Always the last page; max(3, budget / 16) in all. The first layers are left whole. Of kOfHead
/// every query head has pages of its own, as the authors have it; what a group reads are the pages
/// of all its heads.
/// Source  Tang et al. 2024 (Quest), evaluation/quest_attention.py.
enum class QuestPages : std::uint8_t { kOfGroup, kOfHead };
struct QuestParameters {
  std::int64_t page_tokens = 16;
  std::int64_t least_pages = 3;
  std::int64_t dense_layers = 2;
  QuestPages pages = QuestPages::kOfGroup;
};
std::unique_ptr<Policy> quest_policy(const QuestParameters& parameters = {});

/// The keys that received most attention over the whole reading, and the last ones: half and half.
/// Source  Zhang et al. 2023 (H2O).
struct H2oParameters {
  double recent = 0.5;  // of the budget
};
std::unique_ptr<Policy> h2o_policy(const H2oParameters& parameters = {});

/// The keys that the last tokens of the document attended to, averaged over neighbours, over those
/// tokens and over the heads of a group; and those tokens.
/// Source  Li et al. 2024 (SnapKV), as in kvpress: window 64, kernel 5.
struct SnapKvParameters {
  std::int64_t window = 64;
  std::int64_t kernel = 5;  // odd
};
std::unique_ptr<Policy> snapkv_policy(const SnapKvParameters& parameters = {});

/// The keys that future queries are expected to attend to, times the length of their values:
///   softmax(k·μ/√K + ½ kᵀΣk / K) · ‖v‖, averaged over the heads of a group,
/// μ and Σ the mean and covariance of the document's queries before RoPE, turned by the average
/// rotation of the next positions; and the sinks, whose queries do not count.
/// Source  Devoto et al. 2025 (Expected Attention), as in kvpress.
struct ExpectedAttentionParameters {
  std::int64_t sinks = 4;
  std::int64_t future = 512;
};
std::unique_ptr<Policy> expected_attention_policy(
    const ExpectedAttentionParameters& parameters = {});

/// The keys that the document's own words attended to most, by any query of a group's heads, while
/// each piece was read a second time right behind itself (KvCache::reread_tokens()); the first
/// tokens, and the last ones. The authors read a text a second time after all of it, behind an
/// instruction, and share the budget between the heads.
/// Source  Kim et al. 2025 (KVzip).
struct KvZipParameters {
  std::int64_t sinks = 4;
  double recent = 0.05;       // of the budget
  std::int64_t piece = 1024;  // tokens
};
std::unique_ptr<Policy> kvzip_policy(const KvZipParameters& parameters = {});

/// For each query whole clusters of keys, in segments, by the softmax over their centroids summed
/// over the heads of a group, as many as fit the budget; the clusters that come next stand as one
/// key each, with their mean value and the bias log n; the rest is left out. (Their code takes
/// 1.8 % of the clusters: with the first tokens and the last ones about 2.7 % as a budget at 8k.)
/// Source  Chen et al. 2025 (RetroInfer) and its code.
struct RetroInferParameters {
  std::int64_t sinks = 4, recent = 64;
  std::int64_t segment = 8192, tokens_per_cluster = 16, iterations = 10;
  double estimated = 0.232;  // of the clusters
  std::int64_t dense_layers = 0;
};
std::unique_ptr<Policy> retroinfer_policy(const RetroInferParameters& parameters = {});

/// The same clusters ranked by size · e^(score), and all that were not selected stand as one key
/// each.
/// Source  Hooper et al. 2025 (Multipole Attention): 6.25 % centroids in segments of 8192.
struct MultipoleParameters {
  std::int64_t sinks = 4, recent = 64;
  std::int64_t segment = 8192, tokens_per_cluster = 16;
};
std::unique_ptr<Policy> multipole_policy(const MultipoleParameters& parameters = {});

/// The first tokens, the last ones, the keys that the query attends to most, and a uniform sample
/// of the rest, each of which counts for as many as it was drawn from: log(rest / sampled) is added
/// to its score. Drawn anew for each query, the same for the same seed. The keys attended to most
/// are the oracle's, as in the paper's first table, and its figures do not count the keys it looks
/// at; the size of the sample is what the budget leaves, where the paper's is chosen for an error.
/// Source  Desai et al. 2025 (vAttention).
struct VAttentionParameters {
  std::int64_t sinks = 4, recent = 64;
  double best = 0.5;  // of what these leave of the budget; the others are the sample
  std::uint64_t seed = 0;
};
std::unique_ptr<Policy> vattention_policy(const VAttentionParameters& parameters = {});

/// Keeps everything, and observes what others ask for: to read once for several of them
/// (PolicyCache::with).
std::unique_ptr<Policy> observing_policy(const Observe& observe);

/// Keeps everything, and observes what any of the policies here asks for (with their defaults): to
/// read once for all of them (PolicyCache::with).
std::unique_ptr<Policy> all_observing_policy();

/// "full", "int8", "int8row", "int4", "int4h", "window", "oracle", "random", "quest",
/// "quest_heads", "h2o", "snapkv", "kvzip", "expected_attention", "retroinfer", "multipole",
/// "vattention".
const std::vector<std::string>& policy_names();

/// Whether the name is of no policy but of a form of storage: those that begin with "int", and
/// "full". No budget means anything to them.
bool keeps_everything(std::string_view name);

/// A policy by name, with its defaults. Throws ArgumentError for another name.
std::unique_ptr<Policy> make_policy(std::string_view name);

/// A cache that runs the policy of that name: a PolicyCache, or of what keeps everything a
/// ContiguousCache: "full", and "int8", "int8row", "int4" and "int4h" with i8h, i8, i4 and i4h,
/// whatever kv says; of a name that merged.h knows a MergedCache.
/// Throws ArgumentError for another name, and as PolicyCache does.
std::unique_ptr<KvCache> make_policy_cache(std::string_view name, const Budget& budget,
                                           std::vector<LayerSpec> layers, std::int64_t capacity,
                                           DType kv, Measure measure = Measure::kNothing);

}  // namespace quire::cache

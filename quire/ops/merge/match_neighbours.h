#pragma once

#include <cstdint>
#include <optional>

#include "quire/ops/attention/kv_view.h"
#include "quire/tensor/tensor.h"

namespace quire {

/// Whether keys are compared as they are, or less the mean of their head.
enum class Centre : std::uint8_t { kRaw, kMean };

/// Which pairs of neighbours may become one.
struct MatchSpec {
  std::int64_t window = 64;         // largest difference of positions
  double threshold = 0.8;           // smallest cosine of a pair
  std::int64_t group_cap = 8;       // most keys of a group
  std::int64_t merges = INT64_MAX;  // most keys that leave, of each head: the most similar ones
  Centre centre = Centre::kRaw;
};

/// Groups of neighbours: the arguments of group_mean().
struct Matching {
  Tensor group_GS;   // i64, numbered by the position of the first member; each head from 0 on
  Tensor cosine_GS;  // f32: of a key that joined another, the cosine of the two; else 1
  Tensor groups_G;   // i64: groups of each head
  std::int64_t groups = 0;  // the most of any head
};

/// Groups neighbours that are similar: each key with an odd slot looks for the most similar key
/// with an even slot within the window, and joins it when their cosine reaches the threshold.
///
/// kv             the view, not f64; all kv heads of sequence b have S keys
/// protected_GS   u8: keys that are not 0 here stay alone
/// position_GS    i64, ascending in each head: positions that the window measures; absent: slots
///
/// Of equally similar even keys the lowest wins. Where a group is full or merges run out, the most
/// similar pairs come first, of equal ones the lower key; who does not fit stays alone. A key that
/// is 0 or not finite stays alone, too.
///
/// Throws  ArgumentError on shapes, dtypes, the spec's ranges (window 1 to 2^20, threshold −1 to 1,
///         cap at least 2), and what attention() refuses of a view.
/// Order   bits depend neither on threads nor on where pages lie.
/// Memory  the result, one pair for each odd key, and 128 keys for each thread.
/// Source  Bolya et al. 2023 (bipartite matching), within a window because rotated keys of far
///         positions do not compare.
Matching match_neighbours(const KvView& kv, std::int64_t b, const MatchSpec& spec,
                          const std::optional<Tensor>& protected_GS = std::nullopt,
                          const std::optional<Tensor>& position_GS = std::nullopt);

/// Which keys no merge may touch.
struct ProtectSpec {
  std::int64_t sinks = 16;   // first keys
  std::int64_t recent = 64;  // last keys
  double heavy = 0.05;       // share of all keys: those with the largest attention mass
};

/// The keys of each head that a merge leaves alone, as u8 [G, S]: sinks, recent ones, and the
/// ⌈heavy · S⌉ of the largest mass_GS (f32, as attention_mass() gives it), of equal ones the
/// lowest. Throws ArgumentError on shapes, dtypes, negative numbers, and a share above 1.
Tensor protected_keys(const Tensor& mass_GS, const ProtectSpec& spec);

}  // namespace quire

#pragma once

#include <cstdint>
#include <optional>
#include <span>
#include <vector>

#include "quire/eval/candidate.h"
#include "quire/eval/reading.h"

namespace quire::eval {

/// What one layer's attention loses when its inputs are right (level A): a cache gets the keys,
/// values and queries of the full run, so that no error of an earlier layer is in them.
struct Fidelity {
  /// ‖out − full‖ / ‖full‖ of a query head: the mean and the 95th percentile over positions, layers
  /// and heads; and the largest mean of one head, with where it is.
  double error_mean = 0, error_p95 = 0, error_worst_head = 0;
  std::int64_t worst_layer = 0, worst_head = 0;
  /// The part of the full attention that fell on the keys the cache attended to, per kv head: mean,
  /// the 5th percentile, and the smallest mean of one head. NaN where a cache does not say which
  /// keys those are.
  double mass_mean = 1, mass_p5 = 1, mass_worst_head = 1;
};

/// Measures it at the positions of a reading; mass at every `mass_stride`-th of them (it takes a
/// pass over all keys). Throws ArgumentError for a stride under 1, and as the cache does.
/// `progress` counts the document's tokens and then the positions; nothing is returned when it
/// stopped.
std::optional<Fidelity> fidelity(const Reading& reading, DType kv, const Candidate& candidate,
                                 std::int64_t mass_stride = 8, const Progress& progress = {});

/// The same for caches that have read the document already, and been told so: what the full
/// attention says is found out once for all. Each is left at the end of the document. `progress`
/// counts positions.
std::optional<std::vector<Fidelity>> fidelity(const Reading& reading, DType kv,
                                              std::span<cache::KvCache* const> caches,
                                              std::int64_t mass_stride = 8,
                                              const Progress& progress = {});

}  // namespace quire::eval

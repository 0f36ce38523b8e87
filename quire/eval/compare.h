#pragma once

#include <cstdint>
#include <optional>
#include <span>
#include <vector>

#include "quire/eval/candidate.h"
#include "quire/eval/reading.h"
#include "quire/eval/statistics.h"

namespace quire::eval {

/// What a cache did at each position, beside the full one (level B), and the two ledgers.
struct Comparison {
  std::vector<double> kl, nll, nll_full;
  std::vector<std::uint8_t> same_top;
  double bytes_read = 0;          // of a decode step, over all tiers: the mean of the positions
  std::int64_t bytes_stored = 0;  // in all tiers, after the last position
  double mass = 1;                // what the cache itself says of it: the mean of the positions
  std::int64_t reread = 0;        // tokens of the document that it wanted read a second time
  double seconds = 0;             // of the first `timed` positions: forward and logits
  std::int64_t timed = 0;
};

/// Gives the document of a reading to the cache, ends its reading, and feeds the tokens behind it
/// one by one; each prediction is compared with the full cache's. The cache sees nothing but the
/// document before it decides what to keep. `progress` counts the document's tokens and then the
/// positions; nothing is returned when it stopped.
std::optional<Comparison> compare(const model::Model& model, const Reading& reading,
                                  const Candidate& candidate, const Progress& progress = {});

/// The same for caches that have read the document already, and been told so: their first positions
/// one cache after the other, which gives their speeds, then all in lockstep, which gives the same
/// figures sooner. Each is left at the end of the document. `progress` counts positions.
std::optional<std::vector<Comparison>> compare(const model::Model& model, const Reading& reading,
                                               std::span<cache::KvCache* const> caches,
                                               const Progress& progress = {});

/// A line of the table: what docs/eval.md calls the figures of a cache.
struct Row {
  std::string cache, budget;
  double bytes_read = 0;
  std::int64_t bytes_stored = 0;
  std::int64_t reread = 0;  // tokens that were read a second time for it
  double kl_mean = 0, kl_median = 0, kl_p99 = 0;
  Interval kl_interval;  // of kl_mean
  double top1 = 0;       // the part of the positions with the same likeliest token
  double dnll = 0;       // mean of nll − nll_full
  Interval dnll_interval;
  double dnll_far = 0;  // over the positions `far`
  double tok_s = 0;
};

/// `far`: places of positions, those where the window policy loses most. Throws ArgumentError for a
/// place that is no position.
Row summarise(const Candidate& candidate, const Comparison& comparison,
              const std::vector<std::size_t>& far, const BootstrapSpec& bootstrap = {});

/// The places where a cache loses most: the tenth of the positions with the largest nll − nll_full.
std::vector<std::size_t> far_positions(const Comparison& window);

}  // namespace quire::eval

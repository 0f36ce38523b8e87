#pragma once

#include <cstdint>
#include <string>
#include <vector>

#include "quire/base/json.h"
#include "quire/eval/compare.h"
#include "quire/eval/fidelity.h"
#include "quire/eval/tasks.h"

namespace quire::cli {

/// A cache with all that was measured of it.
struct EvalRow {
  eval::Row figures;
  eval::Fidelity fidelity;
  double mass = 1;
};

/// The difference of the mean KL of two rows at the same positions: cache − other.
struct EvalDifference {
  std::string cache, other, budget;
  double kl = 0;
  eval::Interval interval;
};

/// A cache that cannot do with the bytes of a budget, and why.
struct LeftOut {
  std::string cache, budget, reason;
};

/// All that `quire eval` prints.
struct EvalReport {
  std::string model, text;
  // in_text: all of the text; tokens: its beginning, of which document and positions are parts.
  std::int64_t in_text = 0, tokens = 0, document = 0, positions = 0;
  std::vector<EvalRow> rows;
  std::vector<EvalDifference> differences;
  std::vector<eval::TaskScore> tasks;
  std::vector<LeftOut> left_out;
  double seconds = 0;
};

/// Every two rows of the same budget.
std::vector<EvalDifference> differences(const std::vector<eval::Row>& rows,
                                        const std::vector<eval::Comparison>& comparisons,
                                        const eval::BootstrapSpec& bootstrap);

/// docs/json.md, section eval; without the keys that say how it was computed.
Json to_json(const EvalReport& report);
/// The tables of docs/eval.md.
std::string to_text(const EvalReport& report);
/// KL against the bytes read and the bytes stored.
std::string to_svg(const EvalReport& report);

}  // namespace quire::cli

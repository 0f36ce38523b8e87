#pragma once

#include <cstdint>

#include "quire/base/isa.h"
#include "quire/ops/search/sketch_run.h"

namespace quire::kernel {

/// One key in spans of 64 numbers: `rest` and `one_by_weight` are 0 behind its K numbers. Span s is
/// written to codes[s][0 … 15]: bits 2j and 2j + 1 of byte b are number 64 s + 16 j + b. Returns
/// the scale; 0 where there is nothing to tell from the mean.
QUIRE_DECLARE_KERNEL(float, sketch_key, const float* rest, const float* one_by_weight,
                     std::int64_t K, std::uint8_t* const* codes)

/// sketch_scores() with everything checked and made plain.
struct SketchScores {
  const std::uint8_t* const* codes;  // of each span
  std::int64_t spans, R;
  const std::uint16_t* scale;  // bf16, of each key
  const std::int8_t* q;        // [R, spans, 4, 64]: the 16 codes of a quarter span four times
  const float* step_R;         // what a code of the query is worth, times the scale
  const float* offset_R;       // −1½ · the sum of its codes
  const SketchRun* runs;
  std::int64_t count;
  const float* mean_RC;  // C: count
  float* score_RW;
  std::int64_t W;
};
void sketch_scores_cpu(const SketchScores& args);
/// Of queries [r, r + rows), rows ≤ 4.
QUIRE_DECLARE_KERNEL(void, sketch_score_rows, const SketchScores& args, std::int64_t r, int rows)

/// x becomes e^(x − total), and is added to rank unless it is the first.
QUIRE_DECLARE_KERNEL(void, share_row, float* x, float total, std::int64_t n, bool is_first,
                     float* rank)
/// Σ of the shares that are not taken, of each run.
QUIRE_DECLARE_KERNEL(void, rest_row, const float* share, const std::uint8_t* taken,
                     const SketchRun* runs, std::int64_t count, float* rest)

}  // namespace quire::kernel

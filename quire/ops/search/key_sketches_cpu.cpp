#include <algorithm>

#include "quire/ops/search/key_sketches_kernel.h"

namespace quire::kernel {

void sketch_scores_cpu(const SketchScores& args) {
  constexpr std::int64_t kRows = 4;
  for (std::int64_t r = 0; r < args.R; r += kRows)
    QUIRE_FOR_ISA(sketch_score_rows)(args, r, static_cast<int>(std::min(kRows, args.R - r)));
}

}  // namespace quire::kernel

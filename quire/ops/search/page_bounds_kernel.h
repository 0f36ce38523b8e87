#pragma once

#include <cstdint>

#include "quire/base/isa.h"
#include "quire/ops/attention/kv_view.h"

namespace quire::kernel {

/// page_bounds() with everything checked and made plain.
struct PageBoundsArgs {
  KvView kv;
  std::int64_t b, S, P, page_tokens;
  float *least_GPK, *most_GPK;
};
void page_bounds_cpu(const PageBoundsArgs& args);
/// The bounds of page p of kv head g. `scratch` is 64 · K floats.
QUIRE_DECLARE_KERNEL(void, bound_page, const PageBoundsArgs& args, std::int64_t g, std::int64_t p,
                     float* scratch)

struct PageBoundScores {
  const float *q_NHK, *least_GPK, *most_GPK;
  float* out_NHP;
  std::int64_t N, H, G, P, K;
  float scale;
};
void page_bound_scores_cpu(const PageBoundScores& args);
/// All pages of one query and head.
QUIRE_DECLARE_KERNEL(void, bound_row, const PageBoundScores& args, std::int64_t row)

}  // namespace quire::kernel

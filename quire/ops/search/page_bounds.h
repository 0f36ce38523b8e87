#pragma once

#include <cstdint>

#include "quire/ops/attention/kv_view.h"
#include "quire/tensor/tensor.h"

namespace quire {

/// The smallest and largest of each number in the keys of a page; f32.
struct PageBounds {
  Tensor least_GPK, most_GPK;
};

/// Bounds of the pages of sequence b: page p has slots [p · page_tokens, …), the last may have
/// fewer. (The mean key and value of pages are group_mean() with group s / page_tokens.)
///
/// kv           the view, not f64; all kv heads of sequence b have as many keys
/// page_tokens  1 to 2^20; the pages of the view may be others
///
/// NaN is passed over. Throws ArgumentError as attention() does of a view, and on page_tokens.
PageBounds page_bounds(const KvView& kv, std::int64_t b, std::int64_t page_tokens);

/// What no key of a page can exceed: bound[n, h, p] = scale · Σ_k max(q_k · least_k, q_k · most_k).
///
/// q_NHK   f32; query head h reads kv head h / (H/G)
/// scale   of the scores; 0: 1/√K
///
/// Returns f32 [N, H, P]. Throws ArgumentError on shapes and dtypes.
/// Source  Quest 2024.
Tensor page_bound_scores(const Tensor& q_NHK, const PageBounds& bounds, double scale = 0);

}  // namespace quire

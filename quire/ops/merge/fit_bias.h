#pragma once

#include <cstdint>

#include "quire/ops/attention/kv_view.h"
#include "quire/ops/merge/group_mean.h"
#include "quire/tensor/tensor.h"

namespace quire {

/// The bias with which merged keys come closest to their members' attention mass, by least squares
/// over probe queries: with S_q the scores of a query, true mass m_q = Σ_members e^S_q and
/// l_q = e^(scale · q·k*),
///
///   e^bias = Σ_q ω_q m_q l_q / Σ_q ω_q l_q²        ω_q = 1 / total_q²
///
/// kept within 3 of log p*; log p* itself where no probe reaches the group.
///
/// q_NHK     f32 probes, all of which see all keys; query head h reads kv head h / (H/G)
/// lse_NH    f32: log total_q, as attention() returns it over all that the probes see
/// kv        the keys before the merge, not f64; their bias (1 or G heads) counts, too
/// group_GS  i64, as given to group_mean(), which returned merged (f32)
/// scale     of the scores; 0: 1/√K
///
/// Returns f32 [G, M], −inf for empty groups. Throws ArgumentError on shapes and dtypes, and what
/// attention() refuses of a view.
/// Order   probes in order within a key, keys in order within a group (the latter in f64): bits
///         depend neither on threads nor on where pages lie.
/// Memory  N · H · M floats, one for each key, and N · H / G · 64 for each thread.
/// Source  the fitted bias of Attention Matching 2026, one group at a time.
Tensor fit_bias(const Tensor& q_NHK, const Tensor& lse_NH, const KvView& kv, std::int64_t b,
                const Tensor& group_GS, const MergedKeys& merged, double scale = 0);

}  // namespace quire

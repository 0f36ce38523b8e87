#pragma once

#include <cstdint>

#include "quire/ops/attention/attention.h"

namespace quire::cache {

/// attention() of several sequences whose first `shared` keys are the same pages: those keys are
/// read once, for the queries of all. The same bits as attention().
///
/// shared   a multiple of 256, at most the number of keys that every query of every sequence sees
/// spec     bottom-right, causal, without window, slope, sink or mask
///
/// Throws  ArgumentError when shared or spec is not so, and as attention() does.
/// Memory  the result, a state for each row, and with few queries one for each row and 256 shared
///         keys.
Tensor shared_attention(const Tensor& q_NHK, const Tensor& start_J, const KvView& kv,
                        const AttentionSpec& spec, std::int64_t shared);

/// Whether shared_attention() takes the spec.
bool can_share(const AttentionSpec& spec);

}  // namespace quire::cache

#pragma once

#include <cstdint>

#include "quire/ops/attention/attention_spec.h"
#include "quire/ops/attention/kv_view.h"
#include "quire/tensor/tensor.h"

namespace quire {

/// The leading keys that attention() reads once for all sequences of a batch: those whose pages
/// every sequence with queries has at the same place of its table. Bits do not depend on it.
///
/// start_J, kv, spec  as attention() takes them
///
/// A multiple of 256 (one partial result), at most the keys before any of the queries. 0: each
/// sequence reads for itself. So it is with fewer than two sequences that have queries, with tables
/// or lengths by head, with first_BG, and with a spec in which a query's place changes what it sees
/// of earlier keys (window_left, slope, masks).
/// Throws  nothing of its own: attention() checks its arguments first.
/// Source  Juravsky et al. 2024 (Hydragen); but partial results are cut at fixed positions, so that
///         sharing changes no bit.
std::int64_t shared_keys(const Tensor& start_J, const KvView& kv, const AttentionSpec& spec);

}  // namespace quire

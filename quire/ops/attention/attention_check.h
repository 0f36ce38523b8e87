#pragma once

// What attention and its backward check alike.

#include <cstdint>

#include "quire/ops/attention/attention_spec.h"
#include "quire/ops/attention/kv_view.h"
#include "quire/tensor/tensor.h"

namespace quire {

/// Checks queries (start_J contiguous), view and spec against each other, every length and every
/// page of the table included. Returns the spec with its scale resolved and its alignment chosen.
/// Throws ArgumentError.
AttentionSpec checked_attention(const Tensor& q_NHK, const Tensor& start_J, const KvView& kv,
                                const AttentionSpec& spec);

/// The number of keys of sequence b of a view that is checked as above; every kv head must have as
/// many. Throws ArgumentError.
std::int64_t checked_keys(const KvView& kv, std::int64_t b);

/// The queries as the kernels want them for these pages: contiguous, f32 (f64 for f64), and turned
/// where the keys are (i4h, i8h).
Tensor queries_for(const KvView& kv, const Tensor& q_NHK);

}  // namespace quire

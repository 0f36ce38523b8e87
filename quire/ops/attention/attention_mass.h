#pragma once

#include <cstdint>

#include "quire/ops/attention/attention_spec.h"
#include "quire/ops/attention/kv_view.h"
#include "quire/tensor/tensor.h"

namespace quire {

/// What attention_mass() makes of the probabilities that a key received.
enum class MassOf : std::uint8_t { kSum, kLargest };

/// The probability that each key received: what eviction, merging and the report of a cache need.
///   mass[page, slot, g] = Σ exp(score − lse), over the queries of every sequence whose table names
///   the page, and the heads h that read kv head g; of kLargest the largest of these instead
///
/// q_NHK … spec  as given to attention()
/// lse_NH        as attention() returned it, sinks included; or the final one of a merge: then the
///               masses of all parts add up to the number of rows that see a key
/// Returns f32 [P, Z, G] (f64 where q is f64); 0 where no query sees the key.
///
/// Throws  ArgumentError as attention() does, and for another shape or dtype of lse.
/// Order   one pass over the keys; rows are added in order (query, then head) in parts of 96, then
///         sequences in order: bits depend neither on threads nor on where pages lie.
/// Memory  the result, a float for each key of each sequence, and per-thread tiles.
Tensor attention_mass(const Tensor& q_NHK, const Tensor& start_J, const KvView& kv,
                      const AttentionSpec& spec, const Tensor& lse_NH, MassOf of = MassOf::kSum);

}  // namespace quire

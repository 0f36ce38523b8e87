#pragma once

#include <cstdint>

#include "quire/ops/attention/attention_spec.h"
#include "quire/ops/attention/kv_view.h"
#include "quire/tensor/tensor.h"

namespace quire {

/// The output, and the log-sum-exp of the scores, which is what a merge with other keys needs.
struct AttentionResult {
  Tensor out_NHU;  // the dtype of q
  // f32 (f64 where q is), natural logarithm; −inf for a row that sees no key: its out is 0.
  Tensor lse_NH;
};

/// Softmax attention of ragged queries over paged keys and values.
///
/// q_NHK    f32, bf16, f16 or f64   sequence b owns rows [start[b], start[b+1]); f64 goes with
///                                  pages of f64, and is simple and slow
/// start_J  i32 [B+1], start[0] = 0, ascending; zero lengths are legal
/// kv       the view; H must be a multiple of G, query head h reads kv head h / (H/G)
/// spec     see there; masks are told apart per sequence and per head by their strides
///
/// Throws  ArgumentError on shapes, dtypes, a page number outside the pool, lengths beyond the
///         table, or an alignment left unset.
/// Unchecked  The extent of masks, slopes, sinks and biases.
/// Order   a partial result per 256 key positions, in tiles of 64, merged in order: bits depend
///         neither on threads, nor on how many queries come at once, nor on where pages lie, nor on
///         whether sequences share them (shared_keys(): those are read once for all). A key that
///         is masked is skipped: NaN in it reaches nothing. Where q, keys and values are bf16
///         (or spec.query_rounding makes q so), weights are rounded to bf16 and denormals may count
///         as 0.
/// Memory  the result and per-thread tiles; with few queries also one partial result per 256 keys.
/// Source  Milakov and Gimelshein 2018 (online softmax); Dao et al. 2022 (tiles).
AttentionResult attention(const Tensor& q_NHK, const Tensor& start_J, const KvView& kv,
                          const AttentionSpec& spec);

/// The softmax over the union of two disjoint sets of keys, from the result over each: out and lse
/// of `b` merged into `a`. Total: an empty part (lse −inf) changes nothing; two empty parts give 0
/// and −inf.
AttentionResult merge_attention(const AttentionResult& a, const AttentionResult& b);

}  // namespace quire

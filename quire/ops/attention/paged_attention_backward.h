#pragma once

#include <cstdint>

#include "quire/ops/attention/attention_spec.h"
#include "quire/tensor/tensor.h"

namespace quire {

/// Where each token of a paged cache lies: row (table[b, s / Z] · Z + s % Z) · G + g of the pool
/// as rows [P · Z · G, K].
///
/// table_BW  i32, any strides; the first ⌈S / Z⌉ entries of a row are read
/// returns   i64 [B, G, S]
///
/// Throws  ArgumentError on dtype, on sizes below 1, for S > W · Z, and for a negative entry.
Tensor paged_rows(const Tensor& table_BW, std::int64_t Z, std::int64_t G, std::int64_t S);

/// A pool of pages and its table, as tensors.
struct PagedKv {
  Tensor k_pages_PZGK, v_pages_PZGU;  // the last dimension contiguous
  Tensor table_BW;                    // i32
  Tensor length_B;                    // i64: keys of each sequence
};

/// What paged_attention_backward returns, in the shapes of its inputs.
struct PagedAttentionGradients {
  Tensor dq_BHTK;
  Tensor dk_pages_PZGK, dv_pages_PZGU;  // f32 (f64 for f64), 0 where no sequence has a key
};

/// Gradients of attention over pages for a batch of equally many queries, from the output alone:
/// the log-sum-exp is computed anew (one forward more than attention_backward, which it calls).
///
/// dout_BHTU, out_BHTU  the dtype of q, or f32
/// q_BHTK               f64, f32, bf16 or f16
/// kv                   pages may be [P, G, Z, K] seen through transpose(1, 2)
/// spec                 as of attention(); {.alignment = kTopLeft} is boostr's causal = true, and
///                      {.window_right = kUnlimited} its causal = false
///
/// Throws  ArgumentError as attention_backward() does.
/// Memory  copies of q, dout and out by query, and what attention() and its backward take.
PagedAttentionGradients paged_attention_backward(const Tensor& dout_BHTU, const Tensor& q_BHTK,
                                                 const PagedKv& kv, const Tensor& out_BHTU,
                                                 const AttentionSpec& spec);

}  // namespace quire

#pragma once

#include <cstdint>

#include "quire/ops/attention/attention.h"
#include "quire/ops/attention/attention_spec.h"
#include "quire/ops/attention/kv_view.h"
#include "quire/tensor/tensor.h"

namespace quire {

/// What attention_backward writes and adds to; null leaves one out.
struct AttentionGradients {
  Tensor dq_NHK;  // written: a new tensor, the shape and dtype of q_NHK
  // Added to, with the strides and the layout of k_pages and v_pages; f32, or f64 where q is f64.
  void* dk_pages = nullptr;
  void* dv_pages = nullptr;
  float* dbias = nullptr;     // added to: [P, Z, bias_heads] as kv.bias
  float* dslope_H = nullptr;  // added to
  float* dsink_H = nullptr;   // added to
};

/// Gradients of attention() with respect to queries, pages, biases, slopes and sinks:
///   P = exp(score − lse)   D = Σ dout·out − dlse   dS = P · (dout·v − D)
///   dq = scale · Σ dS · k   dk = scale · Σ dS · q   dv = Σ P · dout   dbias = Σ dS
///
/// gradients     see there; a page that several tables name receives the sum over all of them
/// dout_NHU      the dtype of q, or f32
/// dlse_NH       gradient of lse, f32 (f64 where q is f64); an empty Tensor is zeros
/// q_NHK … spec  as given to attention()
/// result        as attention() returned it, or the final one of a merge: then the gradients of
///               this part are exact, and the merge needs no backward. out may be f32 where q is
///               bf16 or f16, which loses less.
///
/// Throws  ArgumentError as attention() does; for shapes and dtypes of the gradients; for dk_pages
///         and dv_pages of i8, i4, i4h and i8h pages (only queries have gradients there), and for
///         gradients of what the view or the spec does not have.
/// Order   the owner of a kv head walks its pages once in table order, over all sequences and
///         queries that see each; what meets in one place is added in that order, in f32 (f64),
///         without atomics. With fewer owners than threads dq is computed by a second pass over the
///         queries, of the same bits. Keys that are masked are skipped; a query that sees no key
///         has the gradient 0.
/// Memory  dq, two floats for each row of N · H, the pages' order, and per-thread tiles. bf16 and
///         f16 queries take an f32 dq beside it.
/// Source  Dao et al. 2022, with the loops owned by pages.
void attention_backward(AttentionGradients& gradients, const Tensor& dout_NHU,
                        const Tensor& dlse_NH, const Tensor& q_NHK, const Tensor& start_J,
                        const KvView& kv, const AttentionSpec& spec, const AttentionResult& result);

}  // namespace quire

#pragma once

#include <memory>

#include "quire/grad/var.h"
#include "quire/ops/attention/attention_spec.h"
#include "quire/ops/attention/kv_view.h"

namespace quire::grad {

/// Keys and values in pages on the tape. Copies share the pages: after a kv_write all of them stand
/// for what is in memory now.
class KvPool {
 public:
  /// k_pages_PZGK  f64, f32, bf16 or f16; row-major, or transpose(1, 2) of a row-major [P, G, Z, K]
  /// v_pages_PZGU  the same dtype
  ///
  /// Either may need a gradient; kv_write writes into this memory.
  /// Throws ArgumentError on shapes, dtypes and strides.
  KvPool(Var k_pages_PZGK, Var v_pages_PZGU);

  /// What stands in the pages now, with its place on the tape.
  const Var& k_pages_PZGK() const;
  const Var& v_pages_PZGU() const;

  /// The pages with their sizes and versions; table and lengths are the caller's to fill in. Good
  /// as long as a copy of the pool lives.
  KvView view() const;

  struct State;  // for the wiring files
  State& state() const { return *state_; }

 private:
  std::shared_ptr<State> state_;
};

/// Optional inputs of attention that may need gradients; an empty Var is none.
struct AttentionBiases {
  Var bias = {};     // f32 [P, Z, 1, G or H], added to the scores of a key
  Var slope_H = {};  // f32, ALiBi
  Var sink_H = {};   // f32
};

/// The results of attention.
struct AttentionVars {
  Var out_NHU;
  Var lse_NH;
};

/// As in ops/attention/attention.h, with gradients to q, to the pages, biases, slopes and sinks.
///
/// kv    tables, lengths and positions; its pages, sizes and bias are those of `pool` and `biases`
/// spec  slopes and sinks are those of `biases`; a mask must live as long as the tape
///
/// The tables are copied. A loss may use out, lse or both: each backward pass calls
/// attention_backward once. A key that backward needs and that was overwritten since (by kv_write,
/// or through any tensor of the pages) is an error in backward; appending behind the lengths is
/// not. bf16 and f16 queries: out is kept in f32 for backward. Throws as attention() does.
AttentionVars attention(const Var& q_NHK, const Tensor& start_J, const KvPool& pool,
                        const KvView& kv, const AttentionSpec& spec,
                        const AttentionBiases& biases = {});

/// As in ops/attention/kv_write.h: writes into the pool's memory, which from then on stands for
/// itself with these tokens. The gradients of the slots go to k and v, those of all other slots to
/// what stood there before.
void kv_write(const KvPool& pool, const Var& k_NGK, const Var& v_NGU, const Tensor& slot_N);

}  // namespace quire::grad

#pragma once

#include <array>
#include <cstdint>

#include "quire/grad/var.h"
#include "quire/ops/attention/kv_view.h"
#include "quire/ops/matmul/weight.h"
#include "quire/tensor/rng.h"
#include "quire/tensor/tensor.h"

namespace quire::nn {

/// What a query sees: every key, or the keys up to its own position (the last query stands beside
/// the last key).
enum class Sees : std::uint8_t { kAll, kCausal };

/// The projections of an attention layer, outputs × inputs, as PyTorch's Linear stores them:
/// q [H·K, D], k and v [G·K, D], output [D, H·K]; without biases.
template <class Value>
struct AttentionWeights {
  Value q, k, v, output;
};

/// Uniform in ±1/√D, drawn in the order q, k, v, output; f32. Vars are leaves that need gradients.
template <class Value>
AttentionWeights<Value> attention_init(std::int64_t D, std::int64_t H, std::int64_t G, Rng& rng);

/// Keys and values of the tokens that a layer has seen, B sequences of one length. A forward with a
/// cache appends to it. Of Tensors: room for `capacity` tokens is reserved at the first call, and
/// appending copies nothing that is there. Of Vars: a longer copy for each call, so that every step
/// keeps what its backward needs.
template <class Value>
class AttentionCache;

template <>
class AttentionCache<Tensor> {
 public:
  /// Tokens of each sequence. Throws ArgumentError below 1.
  explicit AttentionCache(std::int64_t capacity);
  std::int64_t length() const { return length_; }
  std::int64_t capacity() const { return capacity_; }

  /// Appends T tokens. The first call fixes B, G, K, U and the dtype (f32 or f64). Throws
  /// ArgumentError for other sizes later, and when they do not fit (with both numbers).
  void append(const Tensor& k_BTGK, const Tensor& v_BTGU);
  /// Forgets all tokens. The room and its sizes stay: the next sequences need no new memory.
  void clear() { length_ = 0; }
  /// Page b holds sequence b; lengths are the caller's to fill in.
  KvView view() const;

 private:
  std::int64_t capacity_, length_ = 0;
  Tensor k_, v_;  // [B, G, capacity, K]: heads apart; keys of f32 in blocks
};

template <>
class AttentionCache<grad::Var> {
 public:
  explicit AttentionCache(std::int64_t capacity);
  std::int64_t length() const { return length_; }
  std::int64_t capacity() const { return capacity_; }
  void append(const grad::Var& k_BTGK, const grad::Var& v_BTGU);
  void clear() { *this = AttentionCache(capacity_); }
  /// [B, length, G, K or U]
  const grad::Var& k_BSGK() const { return k_; }
  const grad::Var& v_BSGU() const { return v_; }

 private:
  std::int64_t capacity_, length_ = 0;
  grad::Var k_, v_;
};

/// Attention of a sequence to itself with H query heads on G key/value heads:
///
///   q = x·Wqᵀ   k = x·Wkᵀ   v = x·Wvᵀ   head h: softmax(q_h·k_gᵀ/√K)·v_g, g = h / (H/G)   out·Woᵀ
///
/// Value    Tensor for inference (the weights are also packed at construction, so writes to them
///          later are not seen), grad::Var for training: the same layer, the same bits
/// x_BTD    f32 or f64, as the weights
/// returns  [B, T, D]; with a cache the same rows as without, given all tokens so far: of kAll only
///          when nothing follows them
///
/// Throws  ArgumentError on shapes and dtypes, and for D or H without a whole number of shares.
/// Source  Vaswani et al. 2017; Ainslie et al. 2023 (grouped queries).
template <class Value>
class GroupedQueryAttention {
 public:
  GroupedQueryAttention(std::int64_t hidden, std::int64_t heads, std::int64_t kv_heads, Rng& rng);
  GroupedQueryAttention(std::int64_t heads, std::int64_t kv_heads, AttentionWeights<Value> weights);

  Value operator()(const Value& x_BTD, Sees sees = Sees::kAll) const;
  Value operator()(const Value& x_BTD, AttentionCache<Value>& cache, Sees sees = Sees::kAll) const;

  const AttentionWeights<Value>& weights() const { return weights_; }
  std::int64_t heads() const { return heads_; }
  std::int64_t kv_heads() const { return kv_heads_; }

 protected:
  struct Projected {
    Value q_NHK, k_BTGK, v_BTGK;
  };
  Projected project(const Value& x_BTD) const;
  /// Before the output's weight; the projections' memory is free again on return.
  Value attended(const Value& x_BTD, AttentionCache<Value>* cache, Sees sees) const;
  Value output(const Value& out_NHK, std::int64_t B, std::int64_t T) const;

 private:
  std::int64_t heads_, kv_heads_;
  AttentionWeights<Value> weights_;
  std::array<Weight, 4> packed_;  // q, k, v, output; of f32 Tensors
};

/// As many key/value heads as query heads.
template <class Value>
class MultiHeadAttention : public GroupedQueryAttention<Value> {
 public:
  MultiHeadAttention(std::int64_t hidden, std::int64_t heads, Rng& rng)
      : GroupedQueryAttention<Value>(hidden, heads, heads, rng) {}
  MultiHeadAttention(std::int64_t heads, AttentionWeights<Value> weights)
      : GroupedQueryAttention<Value>(heads, heads, std::move(weights)) {}
};

/// One head over the whole width: scores are divided by √D.
template <class Value>
class SelfAttention : public GroupedQueryAttention<Value> {
 public:
  SelfAttention(std::int64_t hidden, Rng& rng) : GroupedQueryAttention<Value>(hidden, 1, 1, rng) {}
  explicit SelfAttention(AttentionWeights<Value> weights)
      : GroupedQueryAttention<Value>(1, 1, std::move(weights)) {}
};

}  // namespace quire::nn

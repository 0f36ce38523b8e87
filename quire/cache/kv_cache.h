#pragma once

#include <cstdint>
#include <memory>
#include <vector>

#include "quire/ops/attention/attention.h"
#include "quire/tensor/tensor.h"

namespace quire::cache {

/// What a cache must know of a layer.
struct LayerSpec {
  std::int64_t H = 0, G = 0, K = 0, U = 0;
  AttentionSpec attention;
};

/// Keys and values of one sequence over all layers. A step is: for each layer append(), then
/// attend(); then advance().
class KvCache {
 public:
  virtual ~KvCache() = default;

  /// Tokens in the cache: those of finished steps.
  virtual std::int64_t length() const = 0;
  virtual std::int64_t capacity() const = 0;

  /// Writes the keys and values of N new tokens of a layer behind the length() tokens that it has.
  /// k_NGK, v_NGU f32. Throws ArgumentError when length() + N exceeds capacity() (with both
  /// numbers).
  virtual void append(std::int64_t layer, const Tensor& k_NGK, const Tensor& v_NGU) = 0;
  /// Attention of the N queries that were appended last over all keys of the layer. Returns f32 [N,
  /// H, U].
  virtual Tensor attend(std::int64_t layer, const Tensor& q_NHK) = 0;
  /// Ends a step of N tokens.
  virtual void advance(std::int64_t tokens) = 0;
  /// Drops all tokens from `length` on. Throws ArgumentError when it has fewer.
  virtual void truncate(std::int64_t length) = 0;

  /// Bytes that hold tokens now, and bytes that a token takes.
  virtual std::int64_t bytes() const = 0;
  virtual std::int64_t bytes_per_token() const = 0;
};

}  // namespace quire::cache

#pragma once

#include <cstdint>
#include <memory>
#include <vector>

#include "quire/base/dtype.h"
#include "quire/cache/kv_cache.h"

namespace quire::cache {

/// One page per layer: the address range of the whole capacity is reserved at once, memory is
/// committed as it fills, and nothing is ever copied to make room. Keys lie in blocks of 16
/// (KLayout::kBlocks), values in rows, head by head.
class ContiguousCache : public KvCache {
 public:
  /// kv: what stores_kv() says. Throws ArgumentError (sizes, dtype), OutOfMemory (no address range).
  ContiguousCache(std::vector<LayerSpec> layers, std::int64_t capacity, DType kv);
  ~ContiguousCache() override;

  std::int64_t length() const override;
  std::int64_t capacity() const override;
  void append(std::int64_t layer, const Tensor& k_NGK, const Tensor& v_NGU) override;
  Tensor attend(std::int64_t layer, const Tensor& q_NHK) override;
  void advance(std::int64_t tokens) override;
  void truncate(std::int64_t length) override;
  std::int64_t bytes() const override;
  std::int64_t bytes_per_token() const override;

  /// The keys and values of a layer with the tokens that were appended last.
  KvView view(std::int64_t layer) const;

 private:
  struct Impl;
  std::unique_ptr<Impl> impl_;
};

}  // namespace quire::cache

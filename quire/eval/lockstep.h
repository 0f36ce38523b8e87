#pragma once

#include <cstdint>
#include <span>
#include <vector>

#include "quire/cache/kv_cache.h"

namespace quire::eval {

/// Caches that go on together: a step has one token for each of them, in their order, so that the
/// model reads its weights once for all. Each cache sees its own token alone, as if it went by
/// itself, and gives the same bits: the rows of a step do not touch each other. The caches may be
/// of different kinds and lengths; they must outlive this object.
class Lockstep : public cache::KvCache {
 public:
  /// Throws ArgumentError for none, or one that is named twice.
  explicit Lockstep(std::vector<cache::KvCache*> caches);

  /// Of the longest; of the one with the least.
  std::int64_t length() const override;
  std::int64_t capacity() const override;
  /// Throw ArgumentError for another number of tokens than there are caches, and as the caches do.
  void begin_step(std::span<const std::int32_t> ids) override;
  std::vector<std::int64_t> positions(std::int64_t N) const override;
  void append(std::int64_t layer, const Tensor& k_NGK, const Tensor& v_NGU) override;
  Tensor attend(std::int64_t layer, const Tensor& q_NHK) override;
  void advance(std::int64_t tokens) override;
  /// Throws ArgumentError: each cache is truncated by itself.
  void truncate(std::int64_t length) override;
  /// Sums.
  std::int64_t bytes() const override;
  std::int64_t bytes_per_token() const override;

 private:
  void check(std::int64_t tokens) const;

  std::vector<cache::KvCache*> caches_;
};

}  // namespace quire::eval

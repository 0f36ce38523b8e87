#pragma once

#include <cstdint>
#include <memory>
#include <span>
#include <vector>

#include "quire/cache/paged.h"

namespace quire::cache {

/// Pages that belong to one kv head of one layer each: the per-head mode beside PagedPool's uniform
/// one, where a page holds a stretch of tokens for all layers and heads. Shared by any number of
/// caches; reference counts are per page, and so per (block, kv head). Thread-safe.
class HeadPagedPool {
 public:
  /// spec.budget_tokens: tokens that all heads together may hold, divided by their number.
  /// spec.identity and spec.blocks.hash are not used: prefixes are shared by fork() alone.
  /// Throws  ArgumentError for sizes and dtypes as PagedPool does; for layers of different K or U;
  ///         for i8, whose scales lie apart by head; and for a window, slopes or a mask, which go by
  ///         positions that kept keys no longer have. OutOfMemory (no address range).
  explicit HeadPagedPool(PagedSpec spec);
  ~HeadPagedPool();
  HeadPagedPool(const HeadPagedPool&) = delete;
  HeadPagedPool& operator=(const HeadPagedPool&) = delete;

  const PagedSpec& spec() const;
  BlockCounts counts() const;
  /// Keys and values of a page: page_tokens tokens of one head.
  std::int64_t page_bytes() const;

 private:
  friend class HeadPagedCache;
  struct Impl;
  std::unique_ptr<Impl> impl_;
};

/// One sequence whose kv heads may keep different tokens: what an eviction policy works on. Until
/// something is left out it gives the bits of a ContiguousCache.
class HeadPagedCache : public KvCache {
 public:
  /// Throws ArgumentError for capacity < 1.
  HeadPagedCache(std::shared_ptr<HeadPagedPool> pool, std::int64_t capacity);
  ~HeadPagedCache() override;

  /// Tokens that were read, whether or not any head still holds them.
  std::int64_t length() const override;
  std::int64_t capacity() const override;
  /// Throws also OutOfMemory, naming the budget, when the pool has no page left: the cache then
  /// holds what it held before the step.
  void append(std::int64_t layer, const Tensor& k_NGK, const Tensor& v_NGU) override;
  Tensor attend(std::int64_t layer, const Tensor& q_NHK) override;
  void advance(std::int64_t tokens) override;
  /// Drops what stands at position `length` and behind; what was left out does not come back.
  void truncate(std::int64_t length) override;
  /// Shares all pages; what is shared is copied before it is written.
  std::unique_ptr<KvCache> fork() const override;
  std::unique_ptr<HeadPagedCache> fork_heads() const;
  CacheReport report() const override;
  /// The pages that it holds, also those that others hold too.
  std::int64_t bytes() const override;
  std::int64_t bytes_per_token() const override;

  /// The positions of the tokens that a head holds, ascending.
  std::span<const std::int64_t> held(std::int64_t layer, std::int64_t g) const;
  /// Keeps of a head only the entries with these indices into held(), moved together bit for bit;
  /// pages that are free then go back. In pages of its own it needs no other, in shared ones as
  /// many as it changes.
  /// Throws  ArgumentError when the indices do not ascend or are not there, or in the middle of a
  ///         step; OutOfMemory, naming the budget. Nothing has changed then.
  void keep(std::int64_t layer, std::int64_t g, std::span<const std::int64_t> entries);

  /// The keys and values of a layer with the tokens that were appended last: a table row and a
  /// length for each kv head.
  KvView view(std::int64_t layer) const;

 private:
  struct Impl;
  explicit HeadPagedCache(std::unique_ptr<Impl> impl);
  std::unique_ptr<Impl> impl_;
};

}  // namespace quire::cache

#pragma once

#include <cstdint>
#include <memory>
#include <optional>
#include <span>
#include <string>
#include <vector>

#include "quire/base/dtype.h"
#include "quire/cache/block_pool.h"
#include "quire/cache/kv_cache.h"
#include "quire/cache/tier.h"

namespace quire::cache {

/// What the pages of a pool hold, and how many there are.
struct PagedSpec {
  std::vector<LayerSpec> layers;
  DType kv = DType::kF32;          // what stores_kv() says
  std::int64_t budget_tokens = 0;  // of all sequences together, rounded up to whole pages
  std::int64_t page_tokens = 64;   // >= 1; multiples of 64 are read in place, others are copied
  /// What computed the keys: model, mode, rope. Prefixes are found only under the same name.
  std::string identity;
  BlockPoolSpec blocks;  // most_pinned and hash are taken from here
  /// With a limit, pages that memory has no room for lie in a file. Not a bit depends on it.
  MemoryLimit memory;
};

/// The smallest memory.ram_bytes of such a pool.
std::int64_t least_ram_bytes(const PagedSpec& spec);
/// Throws ArgumentError, as making the pool would, for a memory limit that is too small or too
/// large for the disk's bound.
void check_memory(const PagedSpec& spec);

class PageStore;

/// Pages that any number of caches share. Thread-safe; caches keep it alive.
class PagedPool {
 public:
  /// Throws ArgumentError (sizes, dtype; a memory limit below least_ram_bytes, naming it, or more
  /// than fits on the disk), OutOfMemory (no address range), IoError (no file for the rest).
  explicit PagedPool(PagedSpec spec);
  ~PagedPool();
  PagedPool(const PagedPool&) = delete;
  PagedPool& operator=(const PagedPool&) = delete;

  const PagedSpec& spec() const;
  BlockCounts counts() const;
  /// Nothing without a memory limit, or where all pages fit into it.
  std::optional<TierCounts> tier_counts() const;
  /// Bytes that the pages which are held or kept take in memory; in the file, where there is one.
  std::int64_t ram_bytes() const;
  std::int64_t disk_bytes() const;
  BlockPool& blocks() const;
  PageStore& store() const;
  /// Keys, values and scales of a page.
  std::int64_t page_bytes() const;

 private:
  struct Impl;
  std::unique_ptr<Impl> impl_;
};

/// One sequence in pages of a pool: the bits of a ContiguousCache with the same tokens, whatever
/// the size and the place of the pages. Full pages are found again by other sequences (adopt) once
/// their tokens were told (begin_step); what is shared is copied before it is written.
///
/// Under a memory limit append() and attend() also throw IoError, when a page cannot be read back
/// as it was written, or written at all: nothing else is ever read in its place. recover() then
/// leaves what is still whole, and what followed can be read again.
class PagedCache : public KvCache {
 public:
  /// Sequences of another `salt` never share a page. Throws ArgumentError for capacity < 1.
  PagedCache(std::shared_ptr<PagedPool> pool, std::int64_t capacity, const std::string& salt = "");
  ~PagedCache() override;

  std::int64_t length() const override;
  std::int64_t capacity() const override;
  void begin_step(std::span<const std::int32_t> ids) override;
  /// Throws also OutOfMemory, naming the budget, when the pool has no page left: the cache then
  /// holds what it held before the step.
  void append(std::int64_t layer, const Tensor& k_NGK, const Tensor& v_NGU) override;
  Tensor attend(std::int64_t layer, const Tensor& q_NHK) override;
  void advance(std::int64_t tokens) override;
  void truncate(std::int64_t length) override;
  bool recover() override;
  /// Finds whole pages; those on disk are read and checked. Throws ArgumentError when the cache is
  /// not empty.
  std::int64_t adopt(std::span<const std::int32_t> ids) override;
  std::unique_ptr<KvCache> fork() const override;
  std::unique_ptr<PagedCache> fork_paged() const;
  /// The pages that it holds, also those that others hold too.
  std::int64_t bytes() const override;
  std::int64_t bytes_per_token() const override;

  /// Keeps the full pages that hold these tokens from being evicted, until unpin() or the pool's
  /// end: a document that will be asked about again. Throws ArgumentError as BlockPool::pin does.
  std::vector<Block> pin() const;

  const std::shared_ptr<PagedPool>& pool() const;
  /// Of finished steps; −1 where a token was not told.
  std::span<const std::int32_t> tokens() const;
  /// The pages of the tokens, in order.
  std::span<const std::int32_t> table() const;
  /// The leading tokens none of whose pages is known to be lost.
  std::int64_t intact() const;
  /// The keys and values of a layer with the tokens that were appended last. Throws ArgumentError
  /// where a memory limit holds: pages have no lasting place.
  KvView view(std::int64_t layer) const;

  /// Makes an empty cache hold `tokens` in `blocks`, one reference each, which it takes over: how a
  /// saved cache comes back. Throws ArgumentError when the cache is not empty, or the blocks are
  /// not as many as the tokens need; they are then still the caller's.
  void restore(std::span<const std::int32_t> tokens, std::vector<Block> blocks);
  using KvCache::restore;

 private:
  friend class PagedBatch;
  struct Impl;
  explicit PagedCache(std::unique_ptr<Impl> impl);
  std::unique_ptr<Impl> impl_;
};

/// Several sequences of one pool in one step: a cache whose N tokens are those of the first
/// sequence, then of the second, … A page that all of them begin with is read once for all
/// (PAG-21). Every row has the bits that it has when its sequence goes alone. Made for one step, or
/// for steps of the same counts; the sequences must outlive it.
class PagedBatch : public KvCache {
 public:
  /// counts[b] >= 0 tokens for sequences[b]. Throws ArgumentError for none, for different pools, or
  /// when a sequence is named twice.
  PagedBatch(std::vector<PagedCache*> sequences, std::vector<std::int64_t> counts);
  ~PagedBatch() override;

  std::int64_t length() const override;
  std::int64_t capacity() const override;
  void begin_step(std::span<const std::int32_t> ids) override;
  std::vector<std::int64_t> positions(std::int64_t N) const override;
  /// Throws as PagedCache::append does; a sequence that found no page leaves the others as they
  /// were.
  void append(std::int64_t layer, const Tensor& k_NGK, const Tensor& v_NGU) override;
  Tensor attend(std::int64_t layer, const Tensor& q_NHK) override;
  void advance(std::int64_t tokens) override;
  /// Throws ArgumentError: each sequence is truncated by itself.
  void truncate(std::int64_t length) override;
  /// Drops the step under way of all sequences, and of each what it has lost and what stands
  /// behind. The batch is over: the sequences now need different tokens.
  bool recover() override;
  std::int64_t bytes() const override;
  std::int64_t bytes_per_token() const override;

  /// The leading positions whose pages attention reads once for all sequences of this step, in the
  /// first layer: shared_keys().
  std::int64_t shared() const;

 private:
  struct Impl;
  std::unique_ptr<Impl> impl_;
};

}  // namespace quire::cache

#pragma once

#include <cstdint>
#include <functional>
#include <memory>
#include <span>
#include <string>
#include <string_view>
#include <vector>

#include "quire/cache/hash.h"

namespace quire::cache {

/// One block of a pool as its holder knows it. The generation tells it from blocks that had the
/// same index before: using a block that was freed is an error, not another's data. (It has 64
/// bits: it never comes round.)
struct Block {
  std::int32_t index = -1;
  std::uint64_t generation = 0;
  friend bool operator==(const Block&, const Block&) = default;
};

/// How a pool of blocks is made.
struct BlockPoolSpec {
  std::int64_t blocks = 0;        // 1 to 2^31 − 1
  std::int64_t block_tokens = 0;  // >= 1
  std::int64_t most_pinned = -1;  // blocks that pins may hold; -1: half of them
  /// Where generations and the clock of uses begin: tests put a large number here.
  std::uint64_t first_count = 0;
  /// Tests put a weak one here. Empty: XXH3 under a random key.
  std::function<Hash128(const Hash128& parent, std::span<const std::int32_t> tokens)> hash;
  /// Told when nobody will ask for a block's content any more. It must not call the pool.
  std::function<void(std::int32_t index)> freed;
};

/// Every block is free, held (by references) or cached (published, without a reference): free +
/// held + cached = blocks.
struct BlockCounts {
  std::int64_t blocks = 0, free = 0, held = 0, cached = 0;
  std::int64_t shared = 0;  // of the held: by more than one reference
  std::int64_t pinned = 0;
  // Since the pool was made, in blocks.
  std::int64_t hits = 0, misses = 0, evictions = 0, duplicates = 0, collisions = 0, lost = 0;
};

/// Which blocks of a cache are whose: references, a search tree of full blocks by the tokens that
/// they hold (so that a prefix which was read before is found again), pins, and eviction.
///
/// A published block is never written again. It is found by a keyed hash of its tokens and of
/// everything before them, and by comparing the tokens and the block before it: a collision is a
/// miss. When its last reference goes it stays, until its place is needed: the block that was used
/// longest ago and has no successor goes first, so that a prefix never has a hole.
///
/// Holds no keys or values (PageStore does). All methods may be called from several threads.
/// Throws ArgumentError for a block that is not held (freed, never allocated, of another pool).
class BlockPool {
 public:
  /// Throws ArgumentError for numbers out of range.
  explicit BlockPool(BlockPoolSpec spec);
  ~BlockPool();
  BlockPool(const BlockPool&) = delete;
  BlockPool& operator=(const BlockPool&) = delete;

  std::int64_t block_tokens() const;
  BlockCounts counts() const;

  /// A block with one reference, evicting a cached one when none is free. Throws OutOfMemory,
  /// naming the budget, when all are held or pinned; nothing has changed then.
  Block allocate();
  /// One reference more for each; all or none.
  void retain(std::span<const Block> blocks);
  /// One reference less for each, the last one first; all or none.
  void release(std::span<const Block> blocks);
  std::int64_t references(Block block) const;

  /// True when the only holder may write to the block, which is then no longer published. False
  /// when it is shared, pinned or has successors: whoever wants to write needs a copy.
  bool make_writable(Block block);

  /// The beginning of all chains under `name`: blocks of different names are never found for each
  /// other (a model, a storage type, a tenant's salt). One reference; close_root() gives it back.
  Block open_root(std::string_view name);
  void retain_root(Block root);
  void close_root(Block root);

  /// Makes a full block known as the successor of `parent` (a root, or a published block) with
  /// these tokens. Returns the block to hold from now on: `block`, or one with the same content
  /// that was there before (then `block` was released). Where `parent` is not published, or the
  /// hash of another block is the same, the block just stays unpublished.
  Block publish(Block block, Block parent, std::span<const std::int32_t> tokens);
  bool published(Block block) const;
  /// The content of a block is gone: it and what was published behind it are found no more.
  /// References stay as they are. Throws ArgumentError for an index beyond the pool.
  void lose(std::int32_t index);

  /// The longest chain of published blocks that holds the beginning of these tokens, each with one
  /// reference more.
  std::vector<Block> match(Block root, std::span<const std::int32_t> tokens);

  /// A pinned block is not evicted, nor are those before it. Pins are counted. Throws ArgumentError
  /// for a block that is not published, and beyond spec.most_pinned; all or none.
  void pin(std::span<const Block> blocks);
  /// The blocks need not be held any more.
  void unpin(std::span<const Block> blocks);

 private:
  struct Impl;
  std::unique_ptr<Impl> impl_;
};

}  // namespace quire::cache

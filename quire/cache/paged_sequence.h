#pragma once

#include <memory>
#include <vector>

#include "quire/cache/page_store.h"
#include "quire/cache/paged.h"

namespace quire::cache {

/// What a PagedCache holds; PagedBatch works on several.
struct PagedCache::Impl {
  std::shared_ptr<PagedPool> pool;
  Block root;
  std::int64_t capacity = 0, length = 0;
  std::vector<Block> blocks;           // also those of a step under way
  std::vector<std::int32_t> table;     // their indices
  std::vector<std::int32_t> tokens;    // of finished steps
  std::vector<std::int32_t> step_ids;  // told for the step that comes
  std::int64_t published = 0;          // leading blocks that were published
  std::vector<std::int64_t> layer_length;

  Impl(std::shared_ptr<PagedPool> pool, Block root, std::int64_t capacity);
  ~Impl();
  Impl(const Impl&) = delete;
  Impl& operator=(const Impl&) = delete;

  std::int64_t Z() const { return pool->store().Z(); }
  std::int64_t pages_of(std::int64_t tokens_held) const { return (tokens_held + Z() - 1) / Z(); }

  /// Pages for N tokens more, each writable by this sequence alone. On failure what was taken goes
  /// back.
  void make_room(std::int64_t N);
  std::int64_t slot(std::int64_t position) const {
    return std::int64_t{table[static_cast<std::size_t>(position / Z())]} * Z() + position % Z();
  }
  void advance(std::int64_t N);
  void truncate(std::int64_t to);
  /// Lets go of the pages from the first one on that cannot be read back from disk.
  void drop_lost(std::vector<Block>& found) const;
  std::unique_ptr<Impl> fork() const;
  void reserve(std::size_t ids, std::size_t pages);
  /// From now on the sequence has these pages, whose references it takes over: when it returns.
  /// Throws only where reserve() was not called before.
  void hold(std::span<const std::int32_t> ids, std::vector<Block> held);

 private:
  void set_block(std::size_t i, Block block);
  void drop_from(std::size_t first);
  void publish_full();
};

}  // namespace quire::cache

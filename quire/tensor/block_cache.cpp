#include "quire/tensor/block_cache.h"

#include <sys/mman.h>

#include <algorithm>
#include <bit>
#include <cstdlib>
#include <deque>
#include <mutex>

#include "quire/tensor/tensor.h"

namespace quire {
namespace detail {
namespace {

constexpr std::size_t kLine = 64;
constexpr std::size_t kHugePage = std::size_t{2} << 20;
constexpr std::size_t kHugeFrom = std::size_t{4} << 20;
constexpr std::size_t kCacheFrom = std::size_t{64} << 10;
constexpr std::size_t kCacheBytes = std::size_t{128} << 20;
constexpr std::size_t kCacheBlocks = 64;  // bounds the search

// A cached block would hide a use after free from the address sanitizer.
#if defined(__SANITIZE_ADDRESS__)
constexpr bool kCaching = false;
#elif defined(__has_feature)
#if __has_feature(address_sanitizer)
constexpr bool kCaching = false;
#else
constexpr bool kCaching = true;
#endif
#else
constexpr bool kCaching = true;
#endif

std::size_t padded(std::size_t bytes, std::size_t unit) { return (bytes + unit - 1) / unit * unit; }

/// Large blocks come in few sizes, so that what grows by a little each time finds its old block
/// again: an eighth more at most, of which what nobody touches is no memory yet.
std::size_t capacity_for(std::size_t bytes) {
  if (bytes < kCacheFrom) return padded(bytes, kLine);
  return padded(bytes, std::max(std::size_t{4096}, std::bit_floor(bytes) / 8));
}

Block allocate(std::size_t bytes) {
  if (bytes > (std::size_t{1} << 62)) return {};
  const std::size_t capacity = capacity_for(bytes);
  // By the capacity: a cached block then serves every request that fits it, also in its alignment.
  const bool huge = capacity >= kHugeFrom;
  void* data = nullptr;
  if (::posix_memalign(&data, huge ? kHugePage : kLine, capacity) != 0) return {};
  if (huge) ::madvise(data, capacity, MADV_HUGEPAGE);  // advice: a refusal costs only speed
  return {data, capacity};
}

struct Cache {
  std::mutex mutex;
  std::deque<Block> blocks;  // oldest first
  std::size_t bytes = 0;

  Block take(std::size_t wanted) {
    const std::lock_guard lock(mutex);
    std::size_t best = blocks.size();
    for (std::size_t i = blocks.size(); i-- > 0;) {
      const std::size_t capacity = blocks[i].capacity;
      // A block of up to a quarter too much serves; a larger one would be missed by its own kind.
      if (capacity < wanted || capacity - wanted > wanted / 4) continue;
      if (best == blocks.size() || capacity < blocks[best].capacity) best = i;
    }
    if (best == blocks.size()) return {};
    const Block found = blocks[best];
    blocks.erase(blocks.begin() + static_cast<std::ptrdiff_t>(best));
    bytes -= found.capacity;
    return found;
  }

  void put(Block block) {
    const std::lock_guard lock(mutex);
    while (!blocks.empty() &&
           (blocks.size() == kCacheBlocks || bytes + block.capacity > kCacheBytes)) {
      drop_oldest();
    }
    blocks.push_back(block);
    bytes += block.capacity;
  }

  void drop_oldest() {
    bytes -= blocks.front().capacity;
    std::free(blocks.front().data);
    blocks.pop_front();
  }
};

// Never destroyed: tensors may outlive every other static object.
Cache& cache() {
  static Cache& instance = *new Cache;
  return instance;
}

}  // namespace

Block take_block(std::size_t bytes) {
  if (kCaching && bytes >= kCacheFrom) {
    const Block block = cache().take(bytes);
    if (block.data != nullptr) return block;
  }
  Block block = allocate(bytes);
  if (block.data == nullptr) {
    release_cached_bytes();
    block = allocate(bytes);
  }
  return block;
}

void return_block(Block block) noexcept {
  if (kCaching && block.capacity >= kCacheFrom && block.capacity <= kCacheBytes / 2) {
    try {
      return cache().put(block);
    } catch (...) {  // no memory for the list: the block itself is what to give up
    }
  }
  std::free(block.data);
}

}  // namespace detail

std::int64_t cached_bytes() {
  detail::Cache& cache = detail::cache();
  const std::lock_guard lock(cache.mutex);
  return static_cast<std::int64_t>(cache.bytes);
}

void release_cached_bytes() {
  detail::Cache& cache = detail::cache();
  const std::lock_guard lock(cache.mutex);
  while (!cache.blocks.empty()) cache.drop_oldest();
}

}  // namespace quire

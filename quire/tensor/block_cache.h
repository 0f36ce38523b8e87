#pragma once

#include <cstddef>

namespace quire::detail {

/// A piece of memory and how much of it there is.
struct Block {
  void* data = nullptr;
  std::size_t capacity = 0;
};

/// At least `bytes` (> 0) bytes, aligned as storage.h says; data is null when there is no memory.
/// A step of a model frees and asks for the same large sizes again and again: without the cache
/// each round trip is an munmap, an mmap and a page fault for every 4 KiB.
Block take_block(std::size_t bytes);

/// Gives a block back: to the cache, or to the operating system where it is small or the cache
/// full.
void return_block(Block block) noexcept;

}  // namespace quire::detail

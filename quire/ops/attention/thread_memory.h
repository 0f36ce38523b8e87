#pragma once

#include <cstddef>
#include <cstdint>

namespace quire::kernel {

/// Floats of one thread that are kept from call to call, from a multiple of 64 bytes on. From 512
/// KiB on they lie in huge pages, where the system gives them: rows, scores and tiles of wide heads
/// fill most of L2, and pages of 4 KiB, whose places nobody chooses, push one another out of it.
class ThreadMemory {
 public:
  ThreadMemory() = default;
  ~ThreadMemory();
  ThreadMemory(const ThreadMemory&) = delete;
  ThreadMemory& operator=(const ThreadMemory&) = delete;

  /// At least `count` floats, which hold anything. Throws std::bad_alloc.
  float* floats(std::int64_t count);

 private:
  void release();

  void* data_ = nullptr;
  std::size_t bytes_ = 0, alignment_ = 0;
};

}  // namespace quire::kernel

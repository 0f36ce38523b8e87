#pragma once

#include <atomic>
#include <cstddef>
#include <cstdint>
#include <memory>

namespace quire {

/// Reference-counted bytes, 64-byte aligned; 2 MiB-aligned, with huge pages asked for, from 4 MiB.
/// `version` counts mutable accesses, so that a backward pass can tell that a saved tensor was
/// overwritten. Shared by tensors through std::shared_ptr.
class Storage {
 public:
  /// Uninitialised bytes of its own; 0xFF in each when QUIRE_POISON=1 is in the environment.
  /// Throws OutOfMemory.
  explicit Storage(std::size_t bytes);
  /// Memory that `owner` (may be null) keeps alive.
  Storage(void* data, std::shared_ptr<void> owner) noexcept;
  ~Storage();
  Storage(const Storage&) = delete;
  Storage& operator=(const Storage&) = delete;

  const std::byte* data() const { return data_; }
  /// Counts a version.
  std::byte* mutable_data() {
    version_.fetch_add(1, std::memory_order_relaxed);
    return data_;
  }
  std::uint64_t version() const { return version_.load(std::memory_order_relaxed); }

 private:
  std::byte* data_ = nullptr;
  std::size_t bytes_ = 0;     // counted in allocated_bytes; 0 for wrapped memory
  std::size_t capacity_ = 0;  // of the block behind data_, at least bytes_
  std::shared_ptr<void> owner_;
  std::atomic<std::uint64_t> version_{0};
};

/// For tests of what happens when memory runs out: the `nth` (1 = the next) allocation of a Storage
/// from now on throws OutOfMemory, once; 0 disarms.
void fail_allocation(std::int64_t nth);

}  // namespace quire

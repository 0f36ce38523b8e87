#pragma once

#include <cstddef>
#include <cstdint>
#include <utility>

namespace quire::cache {

/// An address range without memory behind it until it is touched; then it holds zeros.
class Reserved {
 public:
  /// kLarge asks for large memory pages: for what is filled whole.
  enum class Commit { kSmall, kLarge };

  /// Throws OutOfMemory when the address space has no such range.
  explicit Reserved(std::uint64_t bytes, Commit commit = Commit::kSmall);
  ~Reserved();
  Reserved(Reserved&& other) noexcept
      : data_(std::exchange(other.data_, nullptr)), bytes_(other.bytes_) {}
  Reserved(const Reserved&) = delete;
  Reserved& operator=(const Reserved&) = delete;
  Reserved& operator=(Reserved&&) = delete;

  std::byte* data() const { return data_; }
  std::uint64_t bytes() const { return bytes_; }
  /// Returns the memory that lies wholly inside these bytes; what it held may be lost, and it must
  /// be written before it is read again.
  void release(std::uint64_t first, std::uint64_t bytes) const;

 private:
  std::byte* data_ = nullptr;
  std::uint64_t bytes_;
};

/// slots · heads · size · element bytes. Throws ArgumentError beyond 2^46.
std::uint64_t checked_bytes(std::int64_t slots, std::int64_t heads, std::int64_t size,
                            std::uint64_t element);

}  // namespace quire::cache

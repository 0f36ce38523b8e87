#pragma once

#include <cstddef>
#include <cstdint>
#include <optional>
#include <span>
#include <string>
#include <string_view>
#include <vector>

#include "quire/base/file_ops.h"

namespace quire::io {

/// Text from the file, made fit for a message: short, and in printable ASCII.
std::string shown(std::string_view text);

/// What is wrong with a name of the file: "is empty", …; nothing where it is fine.
std::optional<std::string> fault_of_name(std::string_view text);

/// Reads forward through the header of a GGUF file, a bounded window at a time, and knows where it
/// is. Every read is bounded by the bytes left and by a limit on headers. `what` names what is
/// read; it is only looked at when the reading fails, which throws FormatError with the offset.
class GgufCursor {
 public:
  explicit GgufCursor(const File& file) : file_(file), size_(file.size()) {}

  std::uint64_t at() const { return window_begin_ + used_; }
  std::uint64_t left() const { return size_ - at(); }

  [[noreturn]] void fail(std::uint64_t offset, std::string_view message) const;

  /// A number as it lies in the file, little-endian.
  template <class T>
  T number(std::string_view what) {
    T value;
    need(sizeof value, what);
    copy(std::as_writable_bytes(std::span(&value, 1)));
    return value;
  }

  /// A string behind its length, of at most `limit` bytes.
  std::string text(std::uint64_t limit, std::string_view what);

 private:
  void need(std::uint64_t bytes, std::string_view what) const;
  void copy(std::span<std::byte> out);
  void refill();

  const File& file_;
  std::uint64_t size_;
  std::uint64_t window_begin_ = 0;
  std::size_t used_ = 0;
  std::vector<std::byte> window_;
};

}  // namespace quire::io

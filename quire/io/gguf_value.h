#pragma once

#include <cstdint>
#include <string_view>

#include "quire/io/gguf.h"
#include "quire/io/gguf_cursor.h"

namespace quire::io {

/// The types of metadata values, by their numbers in the file.
enum GgufValueType : std::uint32_t {
  kU8,
  kI8,
  kU16,
  kI16,
  kU32,
  kI32,
  kF32,
  kBool,
  kString,
  kArray,
  kU64,
  kI64,
  kF64,
  kValueTypes
};

/// "u8", "string", …; `type` is below kValueTypes.
std::string_view gguf_value_type_name(std::uint32_t type);

/// Reads metadata values. What arrays take in memory is bounded over all of the header together.
/// Everything throws FormatError with the offset, naming the key.
class GgufValueReader {
 public:
  explicit GgufValueReader(GgufCursor& in);

  /// A type that is known; `what` says of what.
  std::uint32_t read_type(std::string_view key, std::string_view what);
  GgufValue read(std::string_view key, std::uint32_t type) {
    return type == kArray ? read_array(key) : read_scalar(key, type);
  }

 private:
  GgufValue read_scalar(std::string_view key, std::uint32_t type);
  double read_real(std::uint32_t type);
  bool read_bool(std::string_view key);
  std::int64_t read_integer(std::string_view key, std::uint32_t type);
  GgufValue read_array(std::string_view key);
  std::uint64_t read_array_count(std::string_view key, std::uint32_t type);

  GgufCursor& in_;
  std::uint64_t strings_left_, numbers_left_;
};

}  // namespace quire::io

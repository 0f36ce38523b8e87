#pragma once

#include <cstdint>
#include <memory>
#include <span>
#include <string>
#include <string_view>
#include <variant>
#include <vector>

#include "quire/base/file_ops.h"

namespace quire::io {

/// A metadata value of a GGUF file. Integers of every width are i64 (u64 only above 2^63 - 1), f32
/// is f64; arrays of numbers are widened to i64 or f64; arrays do not nest.
using GgufValue =
    std::variant<std::int64_t, std::uint64_t, double, bool, std::string, std::vector<std::int64_t>,
                 std::vector<double>, std::vector<bool>, std::vector<std::string>>;

/// A tensor of the file: its type and shape, and where its data lie.
struct GgufTensor {
  std::string name;
  std::uint32_t type = 0;  // the file's number: 0 F32, 1 F16, 2 Q4_0, 3 Q4_1, 8 Q8_0, 30 BF16, …
  std::vector<std::int64_t> shape;  // outermost first (the file has the reverse): [rows, columns]
  std::uint64_t offset = 0;         // from the start of the file
  std::uint64_t bytes = 0;
};

/// How a tensor type stores its elements: `block_bytes` bytes hold `block` elements of a row.
struct GgufType {
  std::string_view name;
  std::uint32_t block = 0;
  std::uint32_t block_bytes = 0;
};

/// Null for a number that is unknown or was removed from the format.
/// Source: the GGUF specification's list of ggml types.
const GgufType* gguf_type(std::uint32_t type);

/// "Q4_1" for 3; "type 99" for a number that no format has.
std::string gguf_type_name(std::uint32_t type);

/// The header of a GGUF v2 or v3 file, read and validated before anything of its size is allocated;
/// tensors are read on demand. Every read names its place in the file, so one GgufFile serves
/// several threads; copies share the open file. Refused by name: split files (split.count > 1),
/// other byte orders, version 1.
/// **Memory** at most 128 MiB plus twice the bytes read, whatever the file claims.
/// Source: the GGUF specification; the rules of docs/reliability.md.
class GgufFile {
 public:
  /// Throws IoError; FormatError with the byte offset for everything that is not a whole,
  /// consistent GGUF file.
  explicit GgufFile(const std::string& path);

  const std::string& path() const;
  std::uint64_t file_bytes() const;
  std::uint32_t version() const;
  const std::vector<std::pair<std::string, GgufValue>>& metadata() const;  // in the file's order
  const std::vector<GgufTensor>& tensors() const;

  const GgufValue* find(std::string_view key) const;
  const GgufTensor* tensor(std::string_view name) const;

  /// Typed access. The first form throws FormatError "key … is missing" / "key … is a string,
  /// expected an unsigned integer"; the second returns `otherwise` when the key is absent, and
  /// still throws when its type is wrong. u32, u64, i32 … are all accepted where they fit.
  std::int64_t integer(std::string_view key) const;
  std::int64_t integer(std::string_view key, std::int64_t otherwise) const;
  double number(std::string_view key) const;
  double number(std::string_view key, double otherwise) const;
  bool boolean(std::string_view key, bool otherwise) const;
  const std::string& text(std::string_view key) const;
  std::string text(std::string_view key, std::string_view otherwise) const;
  const std::vector<std::string>* texts(std::string_view key) const;  // null when absent
  const std::vector<std::int64_t>* integers(std::string_view key) const;

  /// Bytes [begin, begin + out.size()) of a tensor's data. Throws ArgumentError outside it,
  /// IoError, FormatError.
  void read(const GgufTensor& tensor, std::uint64_t begin, std::span<std::byte> out) const;

 private:
  struct Impl;
  std::shared_ptr<const Impl> impl_;
};

}  // namespace quire::io

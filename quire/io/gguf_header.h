#pragma once

#include <cstdint>
#include <string>
#include <string_view>
#include <utility>
#include <vector>

#include "quire/base/file_ops.h"
#include "quire/io/gguf.h"

namespace quire::io {

/// Everything before the tensor data of a GGUF file.
struct GgufHeader {
  std::uint32_t version = 0;
  std::uint32_t alignment = 32;
  std::vector<std::pair<std::string, GgufValue>> metadata;  // in the file's order
  std::vector<std::uint64_t> value_offset;                  // where each value stands
  std::vector<std::uint32_t> by_key;                        // indices of metadata, sorted by key
  std::vector<GgufTensor> tensors;
  std::vector<std::uint32_t> by_name;  // indices of tensors, sorted by name

  /// The index of a key in `metadata`, or -1.
  std::int64_t find(std::string_view key) const;
};

/// Reads and checks the header in steps of bounded size. Throws IoError; FormatError with the
/// offset.
GgufHeader read_gguf_header(const File& file);

/// What a file that is not GGUF probably is, from its first bytes: "a safetensors file", "an HTML
/// page", …; empty when it looks like nothing known.
std::string_view likely_kind(std::string_view first_bytes);

}  // namespace quire::io

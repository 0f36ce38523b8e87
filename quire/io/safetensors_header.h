#pragma once

#include <cstdint>
#include <map>
#include <optional>
#include <string>
#include <string_view>
#include <vector>

#include "quire/base/file_ops.h"
#include "quire/io/safetensors.h"

namespace quire::io {

/// Everything before the data of a safetensors file.
struct SafetensorsHeader {
  std::vector<SafetensorsFile::Entry>
      entries;                         // in the header's order; offsets from the start of the file
  std::vector<std::uint32_t> by_name;  // indices of entries, sorted by name
  std::map<std::string, std::string> metadata;
};

/// Throws IoError, FormatError.
SafetensorsHeader read_safetensors_header(const File& file);

/// The format's word for a dtype: "F32".
std::string_view safetensors_dtype_name(DType dtype);

}  // namespace quire::io

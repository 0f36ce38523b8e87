#pragma once

#include <cstdint>
#include <optional>
#include <string>
#include <vector>

#include "quire/eval/reading.h"

namespace quire::cli {

/// A whole file, in the place of another. Throws IoError.
void write_text(const std::string& path, const std::string& text);

/// Queries, keys and values of some layers (first, middle and last where none are named) as
/// safetensors: "ids", and "q.N", "k.N", "v.N" of layer N. Throws IoError.
void dump_qkv(const std::string& path, const eval::Reading& reading,
              const std::optional<std::vector<std::int64_t>>& layers);

}  // namespace quire::cli

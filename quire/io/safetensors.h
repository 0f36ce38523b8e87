#pragma once

#include <cstdint>
#include <map>
#include <memory>
#include <string>
#include <string_view>
#include <utility>
#include <vector>

#include "quire/tensor/tensor.h"

namespace quire::io {

/// A safetensors file: header validated (docs/reliability.md) before anything is read; tensors read
/// on demand.
class SafetensorsFile {
 public:
  struct Entry {
    std::string name;
    DType dtype;
    Shape shape;
    std::uint64_t offset, bytes;  // from the start of the file
  };
  /// Throws IoError, FormatError.
  explicit SafetensorsFile(const std::string& path);
  const std::vector<Entry>& entries() const;
  const Entry* find(std::string_view name) const;
  /// Throws FormatError naming the file and the tensor when it is absent.
  Tensor read(std::string_view name) const;

 private:
  struct Impl;
  std::shared_ptr<const Impl> impl_;
};

/// Writes the tensors (contiguous or not) under their names: data starts at a multiple of 64 bytes,
/// the file appears whole or not at all.
void write_safetensors(const std::string& path,
                       const std::vector<std::pair<std::string, Tensor>>& tensors,
                       const std::map<std::string, std::string>& metadata = {});

}  // namespace quire::io

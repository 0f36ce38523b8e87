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

/// A safetensors file: the header is read and validated before any tensor; tensors are read on
/// demand. One SafetensorsFile serves several threads; copies share the open file. Stricter than
/// the format's reference: the data must tile the file without holes, an entry has no other fields,
/// and only the dtypes of quire::DType are known.
/// **Source** the format's README (github.com/huggingface/safetensors).
class SafetensorsFile {
 public:
  struct Entry {
    std::string name;
    DType dtype;
    Shape shape;
    std::uint64_t offset, bytes;  // from the start of the file
  };
  /// Throws IoError; FormatError.
  explicit SafetensorsFile(const std::string& path);

  const std::string& path() const;
  const std::vector<Entry>& entries() const;                   // in the header's order
  const std::map<std::string, std::string>& metadata() const;  // of `__metadata__`
  const Entry* find(std::string_view name) const;              // null when absent
  /// Throws FormatError naming the file and the tensor when it is absent, or when a bool is neither
  /// 0 nor 1; IoError.
  Tensor read(std::string_view name) const;

 private:
  struct Impl;
  std::shared_ptr<const Impl> impl_;
};

/// Writes the tensors (contiguous or not) under their names. The data start at a multiple of 64
/// bytes and lie by falling element size, so that each tensor is aligned to its elements; the file
/// appears whole or not at all. The same arguments give the same bytes.
/// **Throws** ArgumentError for a name that is empty, repeated, `__metadata__` or not UTF-8, and
/// for metadata that is not UTF-8; IoError.
void write_safetensors(const std::string& path,
                       const std::vector<std::pair<std::string, Tensor>>& tensors,
                       const std::map<std::string, std::string>& metadata = {});

}  // namespace quire::io

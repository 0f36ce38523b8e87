#pragma once

#include <cstdint>
#include <functional>
#include <string>
#include <vector>

#include "quire/io/gguf.h"
#include "quire/ops/matmul/weight.h"

namespace quire::model {

/// The WeightType of a GGUF tensor type. Throws FormatError naming the tensor, its type, and the
/// types that are read.
WeightType weight_type(const io::GgufFile& file, const io::GgufTensor& tensor);

/// Reads tensors of a GGUF file into panels, layer by layer: nothing but a megabyte of the file's
/// form is in memory beside them.
class WeightReader {
 public:
  using Progress = std::function<void(std::int64_t done, std::int64_t total)>;
  WeightReader(const io::GgufFile& file, Progress progress);

  /// A matrix. Throws FormatError when absent, IoError, OutOfMemory.
  Weight matrix(const std::string& name);
  /// A vector of floats, f32 [size], whatever its type in the file.
  Tensor vector(const std::string& name);
  /// Bytes of all panels and vectors read so far.
  std::int64_t bytes() const { return bytes_; }

 private:
  Weight read(const std::string& name);
  const io::GgufFile& file_;
  Progress progress_;
  std::int64_t done_ = 0, total_ = 0, bytes_ = 0;
};

}  // namespace quire::model

#include "quire/model/gguf_weights.h"

#include "quire/base/error.h"

namespace quire::model {
namespace {

struct Pair {
  std::uint32_t gguf;
  WeightType type;
};
constexpr Pair kTypes[] = {{0, WeightType::kF32},
                           {1, WeightType::kF16},
                           {30, WeightType::kBF16},
                           {3, WeightType::kQ4_1},
                           {8, WeightType::kQ8_0}};

}  // namespace

WeightType weight_type(const io::GgufFile& file, const io::GgufTensor& tensor) {
  std::string known;
  for (const Pair& pair : kTypes) {
    if (pair.gguf == tensor.type) return pair.type;
    known += concat(known.empty() ? "" : ", ", to_string(pair.type));
  }
  throw FormatError(
      file.path(), concat("tensor ", tensor.name, " is stored as ", io::gguf_type_name(tensor.type),
                          "; this version reads ", known));
}

WeightReader::WeightReader(const io::GgufFile& file, Progress progress)
    : file_(file), progress_(std::move(progress)) {
  for (const io::GgufTensor& tensor : file_.tensors())
    total_ += static_cast<std::int64_t>(tensor.bytes);
}

Weight WeightReader::read(const std::string& name) {
  const io::GgufTensor* tensor = file_.tensor(name);
  if (tensor == nullptr) throw FormatError(file_.path(), concat("tensor ", name, " is missing"));
  const WeightType type = weight_type(file_, *tensor);
  const std::int64_t rows = tensor->shape.size() == 1 ? 1 : tensor->shape[0],
                     columns = tensor->shape.back();
  const std::uint64_t row_bytes = rows == 0 ? 0 : tensor->bytes / static_cast<std::uint64_t>(rows);
  Weight weight = Weight::pack(
      type, rows, columns, [&](std::int64_t first, std::int64_t, std::span<std::byte> out) {
        file_.read(*tensor, static_cast<std::uint64_t>(first) * row_bytes, out);
        done_ += static_cast<std::int64_t>(out.size());
        if (progress_) progress_(done_, total_);
      });
  return weight;
}

Weight WeightReader::matrix(const std::string& name) {
  Weight weight = read(name);
  bytes_ += weight.bytes();
  return weight;
}

Tensor WeightReader::vector(const std::string& name) {
  const Weight weight = read(name);
  Tensor out = Tensor::empty({weight.columns()}, DType::kF32);
  weight.row(0, out.mutable_data<float>());
  bytes_ += out.bytes();
  return out;
}

}  // namespace quire::model

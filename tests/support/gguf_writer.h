#pragma once

#include <cstdint>
#include <optional>
#include <string>
#include <string_view>
#include <type_traits>
#include <utility>
#include <vector>

namespace quire::test {

/// The bytes of a number as GGUF stores it (little-endian, as on every machine that runs these
/// tests).
template <class T>
std::string gguf_number(T value) {
  static_assert(std::is_arithmetic_v<T>);
  return {reinterpret_cast<const char*>(&value), sizeof value};
}

inline std::string gguf_text(std::string_view text) {
  return gguf_number(std::uint64_t{text.size()}) + std::string(text);
}

/// GGUF's numbers of value types.
enum GgufValueType : std::uint32_t {
  kGgufU8,
  kGgufI8,
  kGgufU16,
  kGgufI16,
  kGgufU32,
  kGgufI32,
  kGgufF32,
  kGgufBool,
  kGgufText,
  kGgufArray,
  kGgufU64,
  kGgufI64,
  kGgufF64
};

/// The type number of a C++ type.
template <class T>
constexpr std::uint32_t gguf_type_of() {
  if constexpr (std::is_same_v<T, bool>) return kGgufBool;
  if constexpr (std::is_same_v<T, std::uint8_t>) return kGgufU8;
  if constexpr (std::is_same_v<T, std::int8_t>) return kGgufI8;
  if constexpr (std::is_same_v<T, std::uint16_t>) return kGgufU16;
  if constexpr (std::is_same_v<T, std::int16_t>) return kGgufI16;
  if constexpr (std::is_same_v<T, std::uint32_t>) return kGgufU32;
  if constexpr (std::is_same_v<T, std::int32_t>) return kGgufI32;
  if constexpr (std::is_same_v<T, std::uint64_t>) return kGgufU64;
  if constexpr (std::is_same_v<T, std::int64_t>) return kGgufI64;
  if constexpr (std::is_same_v<T, float>) return kGgufF32;
  if constexpr (std::is_same_v<T, double>) return kGgufF64;
}

/// Builds GGUF files, correct ones unless a field is set to something else: for tests only.
class GgufWriter {
 public:
  struct Tensor {
    std::string name;
    std::uint32_t type = 0;
    std::vector<std::int64_t> dims;  // as in the file: innermost first
    std::string data;
    std::optional<std::uint64_t> offset;  // instead of the right one
  };

  std::string magic = "GGUF";
  std::uint32_t version = 3;
  std::optional<std::uint64_t> tensor_count, pair_count;  // instead of the right ones
  std::uint64_t alignment = 32;  // of the data; the key general.alignment is not added by itself
  std::vector<Tensor> tensors;

  /// A key with any type number and any bytes as its value.
  GgufWriter& raw(std::string_view key, std::uint32_t type, std::string_view value) {
    pairs_.push_back(gguf_text(key) + gguf_number(type) + std::string(value));
    return *this;
  }
  template <class T>
  GgufWriter& number(std::string_view key, T value) {
    return raw(key, gguf_type_of<T>(), gguf_number(value));
  }
  GgufWriter& text(std::string_view key, std::string_view value) {
    return raw(key, kGgufText, gguf_text(value));
  }
  template <class T>
  GgufWriter& numbers(std::string_view key, const std::vector<T>& values) {
    std::string out = gguf_number(gguf_type_of<T>()) + gguf_number(std::uint64_t{values.size()});
    for (const T value : values) out += gguf_number(value);
    return raw(key, kGgufArray, out);
  }
  GgufWriter& texts(std::string_view key, const std::vector<std::string>& values) {
    std::string out =
        gguf_number(std::uint32_t{kGgufText}) + gguf_number(std::uint64_t{values.size()});
    for (const std::string& value : values) out += gguf_text(value);
    return raw(key, kGgufArray, out);
  }
  GgufWriter& tensor(std::string_view name, std::uint32_t type, std::vector<std::int64_t> dims,
                     std::string data) {
    tensors.push_back({std::string(name), type, std::move(dims), std::move(data), std::nullopt});
    return *this;
  }

  std::string bytes() const {
    std::string out = magic + gguf_number(version) +
                      gguf_number(tensor_count.value_or(tensors.size())) +
                      gguf_number(pair_count.value_or(pairs_.size()));
    for (const std::string& pair : pairs_) out += pair;
    std::string data;
    for (const Tensor& tensor : tensors) {
      pad(data);
      out += gguf_text(tensor.name) + gguf_number(static_cast<std::uint32_t>(tensor.dims.size()));
      for (const std::int64_t dim : tensor.dims) out += gguf_number(dim);
      out += gguf_number(tensor.type) + gguf_number(tensor.offset.value_or(data.size()));
      data += tensor.data;
    }
    pad(out);
    return out + data;
  }

 private:
  void pad(std::string& out) const {
    out.resize((out.size() + alignment - 1) / alignment * alignment, '\0');
  }

  std::vector<std::string> pairs_;
};

}  // namespace quire::test

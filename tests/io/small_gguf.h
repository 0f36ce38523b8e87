#pragma once

#include <stdexcept>
#include <string>
#include <vector>

#include "quire/io/gguf.h"
#include "tests/support/gguf_writer.h"

namespace quire::test {

/// A small file that has every kind of value and three tensors of different types.
inline GgufWriter small_gguf() {
  GgufWriter writer;
  writer.text("general.architecture", "llama").number("general.alignment", 32u);
  writer.number("u8", std::uint8_t{1})
      .number("i8", std::int8_t{-1})
      .number("u16", std::uint16_t{2});
  writer.number("i16", std::int16_t{-2})
      .number("i32", std::int32_t{-3})
      .number("u64", std::uint64_t{4});
  writer.number("i64", std::int64_t{-4})
      .number("f32", 0.5f)
      .number("f64", 0.25)
      .number("bool", true);
  writer.texts("tokens", {"a", "", "\xE2\x82\xAC"})
      .numbers("types", std::vector<std::int32_t>{1, 2, 3});
  writer.numbers("scores", std::vector<float>{-1.0f, 0.0f});
  writer.tensor("blk.0.weight", 3, {32, 2}, std::string(40, 'q'));
  writer.tensor("norm.weight", 0, {5}, std::string(20, 'n'));
  writer.tensor("bytes", 24, {3, 1, 2}, "uvwxyz");
  return writer;
}

/// Calls everything that a GgufFile offers, as a caller that trusts the reader would.
inline void use_all(const io::GgufFile& file) {
  for (const auto& [key, value] : file.metadata()) {
    if (file.find(key) != &value) throw std::logic_error("a key is not found");
  }
  for (const io::GgufTensor& tensor : file.tensors()) {
    if (file.tensor(tensor.name) != &tensor) throw std::logic_error("a tensor is not found");
    if (tensor.bytes > file.file_bytes())
      throw std::logic_error("a tensor is larger than its file");
    std::vector<std::byte> bytes(static_cast<std::size_t>(tensor.bytes));
    file.read(tensor, 0, bytes);
  }
}

}  // namespace quire::test

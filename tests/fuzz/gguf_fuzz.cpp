#include <unistd.h>

#include <cstdint>
#include <cstdio>
#include <filesystem>
#include <fstream>
#include <stdexcept>
#include <string>
#include <vector>

#include "quire/io/gguf.h"
#include "tests/support/fuzz.h"

namespace quire::test {
namespace {

class Writer {
 public:
  template <class T>
  Writer& number(T value) {
    text_.append(reinterpret_cast<const char*>(&value), sizeof value);
    return *this;
  }
  Writer& string(std::string_view value) {
    number(std::uint64_t{value.size()});
    text_ += value;
    return *this;
  }
  Writer& key(std::string_view name, std::uint32_t type) { return string(name).number(type); }
  Writer& pad(std::size_t alignment) {
    text_.resize((text_.size() + alignment - 1) / alignment * alignment);
    return *this;
  }
  Writer& zeros(std::size_t count) {
    text_.resize(text_.size() + count);
    return *this;
  }
  std::string text() const { return text_; }

 private:
  std::string text_ = "GGUF";
};

std::string file(std::uint32_t version) {
  Writer w;
  w.number(version).number(std::uint64_t{2}).number(std::uint64_t{5});
  w.key("general.architecture", 8).string("llama");
  w.key("llama.block_count", 4).number(std::uint32_t{1});
  w.key("llama.rope.freq_base", 6).number(1e4f);
  w.key("tokenizer.ggml.tokens", 9).number(std::uint32_t{8}).number(std::uint64_t{2});
  w.string("a").string("b");
  w.key("tokenizer.ggml.token_type", 9).number(std::uint32_t{5}).number(std::uint64_t{2});
  w.number(std::int32_t{1}).number(std::int32_t{3});
  w.string("token_embd.weight").number(std::uint32_t{2}).number(std::uint64_t{64});
  w.number(std::uint64_t{2}).number(std::uint32_t{3}).number(std::uint64_t{0});
  w.string("output_norm.weight").number(std::uint32_t{1}).number(std::uint64_t{4});
  w.number(std::uint32_t{0}).number(std::uint64_t{96});
  return w.pad(32).zeros(96 + 16).text();
}

}  // namespace

std::vector<std::string> fuzz_seeds() { return {file(3), file(2)}; }

bool fuzz_one(std::string_view input) {
  static const std::string path =
      std::filesystem::temp_directory_path() / ("quire_gguf_fuzz_" + std::to_string(::getpid()));
  struct Remove {
    ~Remove() { std::remove(path.c_str()); }
  } remove;
  std::ofstream(path, std::ios::binary) << input;
  const io::GgufFile gguf(path);
  for (const io::GgufTensor& tensor : gguf.tensors()) {
    if (tensor.bytes > input.size()) throw std::logic_error("a tensor is larger than its file");
    std::vector<std::byte> bytes(tensor.bytes);
    gguf.read(tensor, 0, bytes);
  }
  return true;
}

}  // namespace quire::test

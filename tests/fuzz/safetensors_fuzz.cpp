#include <unistd.h>

#include <cstdint>
#include <cstdio>
#include <filesystem>
#include <fstream>
#include <stdexcept>
#include <string>
#include <vector>

#include "quire/io/safetensors.h"
#include "tests/support/fuzz.h"

namespace quire::test {
namespace {

std::string file(std::string header, std::size_t data_bytes) {
  header.resize((header.size() + 7) / 8 * 8, ' ');
  const std::uint64_t size = header.size();
  return std::string(reinterpret_cast<const char*>(&size), sizeof size) + header +
         std::string(data_bytes, '\0');
}

}  // namespace

std::vector<std::string> fuzz_seeds() {
  return {
      file(R"({"__metadata__":{"a":"b"},"x":{"dtype":"F32","shape":[2,3],"data_offsets":[0,24]},)"
           R"("y":{"dtype":"I64","shape":[1],"data_offsets":[24,32]}})",
           32),
      file(R"({"e":{"dtype":"BF16","shape":[0,7],"data_offsets":[0,0]}})", 0)};
}

bool fuzz_one(std::string_view input) {
  static const std::string path = std::filesystem::temp_directory_path() /
                                  ("quire_safetensors_fuzz_" + std::to_string(::getpid()));
  struct Remove {
    ~Remove() { std::remove(path.c_str()); }
  } remove;
  std::ofstream(path, std::ios::binary) << input;
  const io::SafetensorsFile tensors(path);
  for (const auto& entry : tensors.entries()) {
    if (static_cast<std::uint64_t>(tensors.read(entry.name).bytes()) > input.size()) {
      throw std::logic_error("a tensor is larger than its file");
    }
  }
  return true;
}

}  // namespace quire::test

#include <cstdint>
#include <stdexcept>
#include <string>
#include <utility>
#include <vector>

#include "quire/io/safetensors.h"
#include "tests/support/fuzz.h"
#include "tests/support/memory_file_ops.h"

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
  MemoryFileOps files;
  files.put("fuzz", input);
  const io::SafetensorsFile tensors("fuzz");
  std::vector<std::pair<std::string, Tensor>> read;
  for (const auto& entry : tensors.entries()) {
    read.emplace_back(entry.name, tensors.read(entry.name));
    if (static_cast<std::uint64_t>(read.back().second.bytes()) > input.size()) {
      throw std::logic_error("a tensor is larger than its file");
    }
    if (entry.name.empty()) return true;  // legal in the format; our writer refuses it
  }
  // What was accepted can be written, and reads back with as many tensors.
  io::write_safetensors("again", read, tensors.metadata());
  if (io::SafetensorsFile("again").entries().size() != read.size()) {
    throw std::logic_error("a file does not round-trip");
  }
  return true;
}

}  // namespace quire::test

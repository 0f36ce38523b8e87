#include <string>
#include <string_view>
#include <vector>

#include "quire/io/gguf.h"
#include "tests/io/small_gguf.h"
#include "tests/support/fuzz.h"
#include "tests/support/gguf_writer.h"
#include "tests/support/memory_file_ops.h"

namespace quire::test {

std::vector<std::string> fuzz_seeds() {
  GgufWriter model;
  model.version = 2;
  model.text("general.architecture", "llama").number("llama.block_count", 1u);
  model.number("llama.rope.freq_base", 1e4f).texts("tokenizer.ggml.tokens", {"a", "b"});
  model.tensor("token_embd.weight", 3, {64, 2}, std::string(80, '\0'));
  model.tensor("output_norm.weight", 0, {4}, std::string(16, '\0'));
  return {small_gguf().bytes(), model.bytes(), GgufWriter().bytes()};
}

bool fuzz_one(std::string_view input) {
  MemoryFileOps files;
  files.put("fuzz.gguf", input);
  const io::GgufFile gguf("fuzz.gguf");
  use_all(gguf);
  return true;
}

}  // namespace quire::test

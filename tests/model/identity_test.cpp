#include "quire/model/identity.h"

#include <gtest/gtest.h>

#include "quire/base/file_ops.h"
#include "tests/model/model_runs.h"
#include "tests/support/memory_file_ops.h"

namespace quire::model {
namespace {

TEST(ModelIdentity, differs_with_any_byte_and_with_the_mode) {
  std::string bytes = read_text(quire::test::golden_path("tiny/llama.gguf"), 1 << 24);
  quire::test::MemoryFileOps files;
  files.put("m.gguf", bytes);
  const auto file = ModelFile::open("m.gguf");
  const std::string fast = model_identity(*file, Mode::kFast);
  EXPECT_EQ(fast, model_identity(*file, Mode::kFast));
  EXPECT_NE(fast, model_identity(*file, Mode::kExact));
  for (const int threads : {1, 2}) {
    const quire::test::Threads set(threads);
    EXPECT_EQ(fast, model_identity(*file, Mode::kFast));
  }
  for (const std::size_t at : {bytes.size() - 1, bytes.size() / 2}) {
    bytes[at] = static_cast<char>(bytes[at] ^ 1);
    EXPECT_NE(fast, model_identity(*file, Mode::kFast)) << at;
    bytes[at] = static_cast<char>(bytes[at] ^ 1);
  }
  EXPECT_EQ(fast, model_identity(*file, Mode::kFast));
}

}  // namespace
}  // namespace quire::model

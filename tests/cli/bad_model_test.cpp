// MODEL is hostile or not there: exit code 3 and one line with the file, in little memory and time.
#include <gmock/gmock.h>
#include <sys/stat.h>

#include <filesystem>

#include "tests/cli/program.h"

namespace quire::test {
namespace {

using testing::AllOf;
using testing::HasSubstr;

constexpr std::uint64_t kMemory = 512 << 20;  // of address space, the program's own included

void expect_refused(const std::string& model, const std::string& said) {
  for (const std::vector<std::string>& arguments : {std::vector<std::string>{"info", model},
                                                    {"run", model, "hi", "--raw"},
                                                    {"tokenize", model, "hi"}}) {
    const Ended ended = quire(arguments, {.memory_limit = kMemory});
    EXPECT_EQ(ended.code, 3) << ended.err;
    EXPECT_EQ(ended.out, "");
    EXPECT_EQ(lines(ended.err), 1) << ended.err;
    EXPECT_THAT(ended.err, AllOf(HasSubstr(model), HasSubstr(said)));
  }
}

TEST(BadModel, IsNoFile) {
  expect_refused(scratch_folder() + "/absent.gguf", "No such file");
  expect_refused(scratch_folder(), "directory");
  const std::string fifo = scratch_folder() + "/fifo";
  ASSERT_EQ(::mkfifo(fifo.c_str(), 0600), 0);
  expect_refused(fifo, "named pipe");
  expect_refused("/dev/null", "device");
}

TEST(BadModel, IsSomethingElse) {
  expect_refused(scratch_file("empty.gguf", ""), ":");
  expect_refused(scratch_file("text.gguf", "This is a text, not a model.\n"), "GGUF");
  expect_refused(scratch_file("magic.gguf", "GGUF"), ":");
  expect_refused(scratch_file("garbage.gguf", "GGUF" + std::string(10'000, '\xff')), ":");
}

TEST(BadModel, HasAnUnknownArchitecture) {
  std::string bytes = read_file(golden("tiny/llama.gguf"));
  const std::string key = "general.architecture";
  const std::size_t at = bytes.find("llama", bytes.find(key));
  ASSERT_NE(at, std::string::npos);
  bytes.replace(at, 5, "mamba");
  expect_refused(scratch_file("mamba.gguf", bytes), "this version runs llama");
}

TEST(BadModel, HasAnUnknownTokenizer) {
  std::string bytes = read_file(golden("tiny/llama.gguf"));
  bytes.replace(bytes.find("llama-bpe"), 9, "llama-xyz");
  const std::string path = scratch_file("xyz.gguf", bytes);
  const Ended ended = quire({"tokenize", path, "hi"});
  EXPECT_EQ(ended.code, 3);
  EXPECT_THAT(ended.err, AllOf(HasSubstr(path), HasSubstr("llama-xyz"), HasSubstr("smollm")));
}

TEST(BadModel, IsCutShort) {
  const std::string bytes = read_file(golden("tiny/llama.gguf"));
  for (std::size_t size = 1; size < bytes.size(); size += 4096) {
    const Ended ended = quire({"run", scratch_file("cut.gguf", bytes.substr(0, size)), "hi"},
                              {.memory_limit = kMemory});
    EXPECT_EQ(ended.code, 3) << size;
    EXPECT_EQ(lines(ended.err), 1) << ended.err;
  }
}

TEST(BadModel, ANameWithoutItsFileSaysHowToFetchIt) {
  const std::string folder = scratch_folder();
  const Ended ended = quire({"info", "smollm2"}, {.environment = {{"XDG_CACHE_HOME", folder}}});
  EXPECT_EQ(ended.code, 3);
  EXPECT_THAT(ended.err, AllOf(HasSubstr(folder + "/quire/models/"),
                               HasSubstr("scripts/fetch_model smollm2")));
}

TEST(BadModel, ANameIsItsFileInTheCache) {
  const std::string folder = scratch_folder();
  std::filesystem::create_directories(folder + "/quire/models");
  std::filesystem::copy_file(tiny_model(), folder + "/quire/models/SmolLM2-135M-Instruct.Q4_1.gguf",
                             std::filesystem::copy_options::overwrite_existing);
  EXPECT_EQ(quire({"info", "smollm2"}, {.environment = {{"XDG_CACHE_HOME", folder}}}).code, 0);
}

TEST(BadModel, WithoutATemplateAskForRaw) {
  const Ended ended = quire({"run", tiny_model(), "hi"});
  EXPECT_EQ(ended.code, 2);
  EXPECT_THAT(ended.err, HasSubstr("--raw"));
}

}  // namespace
}  // namespace quire::test

// What a person at a terminal sees.
#include <gmock/gmock.h>

#include "tests/cli/program.h"

namespace quire::test {
namespace {

using testing::HasSubstr;

std::vector<std::string> reading() {
  std::string ids;
  for (int i = 0; i < 200; ++i) ids += "5 ";
  return {"run", tiny_model(), "--ids", scratch_file("ids", ids), "--max-tokens", "3"};
}

TEST(Terminal, ShowsProgressAndTheTable) {
  const Ended ended =
      quire(reading(), {.environment = {{"TERM", "xterm"}, {"LC_ALL", "C.UTF-8"}, {"NO_COLOR", ""}},
                        .terminal_columns = 80});
  EXPECT_EQ(ended.code, 0);
  EXPECT_THAT(ended.err, HasSubstr("reading █"));
  EXPECT_THAT(ended.err, HasSubstr("200/200 tokens"));
  EXPECT_THAT(ended.err, HasSubstr("\x1b[K"));
  EXPECT_THAT(ended.err, HasSubstr("wrote"));
}

TEST(Terminal, PlainOnesGetPlainText) {
  for (const auto& [name, value] :
       std::map<std::string, std::string>{{"NO_COLOR", "1"}, {"TERM", "dumb"}, {"LC_ALL", "C"}}) {
    std::map<std::string, std::string> environment{
        {"TERM", "xterm"}, {"LC_ALL", "C.UTF-8"}, {"NO_COLOR", ""}};
    environment[name] = value;
    const Ended ended = quire(reading(), {.environment = environment, .terminal_columns = 80});
    EXPECT_THAT(ended.err, HasSubstr("200/200 tokens")) << name;
    for (const char c : ended.err) EXPECT_TRUE(c >= ' ' || c == '\r' || c == '\n') << name;
  }
}

TEST(Terminal, ANarrowOneIsNotOverrun) {
  const Ended ended = quire(reading(), {.environment = {{"TERM", "dumb"}}, .terminal_columns = 20});
  const std::size_t at = ended.err.find("reading");
  ASSERT_NE(at, std::string::npos);
  EXPECT_LT(ended.err.find('\r', at) - at, 20u);
}

TEST(Terminal, QuietIsQuiet) {
  std::vector<std::string> command = reading();
  command.push_back("--quiet");
  EXPECT_EQ(quire(command, {.terminal_columns = 80}).err, "");
}

}  // namespace
}  // namespace quire::test

// What a person types wrong: exit code 2, one line, the nearest word.
#include <gmock/gmock.h>

#include <utility>

#include "quire/base/json.h"
#include "tests/cli/program.h"

namespace quire::test {
namespace {

using testing::EndsWith;
using testing::HasSubstr;

void expect_usage_error(const std::vector<std::string>& arguments, const std::string& said) {
  const Ended ended = quire(arguments);
  EXPECT_EQ(ended.code, 2) << said;
  EXPECT_EQ(ended.out, "") << said;
  EXPECT_EQ(lines(ended.err), 1) << ended.err;
  EXPECT_THAT(ended.err, HasSubstr(said));
}

TEST(Usage, HelpFitsAScreenAndNamesEveryOption) {
  for (const char* command :
       {"run", "chat", "info", "score", "tokenize", "template", "eval", "cache", "bench"}) {
    const Ended ended = quire({command, "--help"});
    EXPECT_EQ(ended.code, 0) << command;
    EXPECT_EQ(ended.err, "") << command;
    EXPECT_LE(lines(ended.out), 45) << command;
    EXPECT_THAT(ended.out, HasSubstr(std::string("usage: quire ") + command)) << command;
    for (std::size_t at = 0; at < ended.out.size();) {
      const std::size_t end = std::min(ended.out.find('\n', at), ended.out.size());
      EXPECT_LE(end - at, 100u) << ended.out.substr(at, end - at);
      at = end + 1;
    }
    EXPECT_EQ(quire({"help", command}).out, ended.out);
  }
  EXPECT_THAT(quire({"run", "--help"}).out, HasSubstr("--max-tokens"));
  EXPECT_THAT(quire({"bench", "ops", "--help"}).out, HasSubstr("usage: quire bench ops [FAMILY]"));
}

TEST(Usage, HelpAndVersionOfTheProgram) {
  EXPECT_THAT(quire({"--help"}).out, HasSubstr("quire tokenize"));
  EXPECT_THAT(quire({"--version"}).out, HasSubstr("quire 0."));
  EXPECT_EQ(quire({"--help"}).code, 0);
  EXPECT_EQ(quire({"help", "help"}).code, 0);
  expect_usage_error({}, "which command?");
}

TEST(Usage, UnknownWordsNameTheNearest) {
  expect_usage_error({"rnu", "x.gguf"}, "did you mean run?");
  expect_usage_error({"run", "x.gguf", "hi", "--max-token", "5"}, "did you mean --max-tokens?");
  expect_usage_error({"run", "--modle", "x.gguf"}, "did you mean --mode?");
  expect_usage_error({"run", "x.gguf", "hi", "--temprature=1"}, "did you mean --temperature?");
  expect_usage_error({"score", "x.gguf", "--fiel", "t"}, "did you mean --file?");
  expect_usage_error({"info", "x.gguf", "--zzzzzzzzzzzz"}, "unknown option --zzzzzzzzzzzz (quire");
  expect_usage_error({"run", "x.gguf", "hi", "--", "--json"}, "unexpected argument '--json'");
  expect_usage_error({"--version", "now"}, "unexpected argument 'now'");
  expect_usage_error({"help", "run", "now"}, "unexpected argument 'now'");
  expect_usage_error({"info", "x.gguf", "y.gguf"}, "unexpected argument 'y.gguf'");
}

TEST(Usage, ValuesAreCheckedWithTheirRange) {
  const std::vector<std::pair<std::vector<std::string>, std::string>> cases{
      {{"--temperature", "nan"}, "--temperature is 'nan'; it must be a number at least 0"},
      {{"--temperature", "-1"}, "--temperature is '-1'"},
      {{"--top-p", "0"}, "--top-p is '0'; it must be a number above 0 and at most 1"},
      {{"--seed", "18446744073709551616"}, "from 0 to 18446744073709551615"},
      {{"--threads", "0"}, "--threads is '0'; it must be a whole number from 1 to 1024"},
      {{"--context", "0x10"}, "--context is '0x10'"},
      {{"--context", "1e30"}, "--context is '1e30'"},
      {{"--max-tokens", "-1"}, "--max-tokens is '-1'"},
      {{"--mode", "quick"}, "exact, fast"},
      {{"--cache", "alphabetical"}, "--cache is 'alphabetical'; in this version: full, paged"},
      {{"--kv", "f64"}, "--kv is 'f64'; in this version: f32, bf16, f16, i8, i4, i4h, i8h"},
      {{"--budget", "150%"}, "--budget is '150%'; it must be a number above 0% and at most 100%"},
      {{"--raw=false"}, "--raw takes no value"},
      {{"--seed"}, "--seed needs a value behind it"},
      {{"--seed", "1", "--seed", "2"}, "--seed is given 2 times; give it once"}};
  for (const auto& [options, said] : cases) {
    std::vector<std::string> arguments{"run", "x.gguf", "hi"};
    arguments.insert(arguments.end(), options.begin(), options.end());
    expect_usage_error(arguments, said);
  }
}

TEST(Usage, ContradictionsAndGaps) {
  expect_usage_error({"run"}, "MODEL is missing");
  expect_usage_error({"run", "x.gguf"}, "nothing to read");
  expect_usage_error({"run", "x.gguf", "hi", "--ids", "f"}, "--ids is the whole prompt");
  expect_usage_error({"run", "x.gguf", "-", "--file", "-"}, "only once");
  expect_usage_error({"run", "x.gguf", "hi", "--raw", "--system", "s"}, "--raw and --system");
  expect_usage_error({"score", "x.gguf"}, "--file or --ids");
  expect_usage_error({"score", "x.gguf", "--file", "t", "--at", "1"}, "--at needs --out");
  expect_usage_error({"tokenize", "x.gguf"}, "nothing to read");
  expect_usage_error({"tokenize", "x.gguf", "hi", "--jsonl"}, "too much to read");
  expect_usage_error({"template", "--vars", "v"}, "MODEL or --template FILE is missing");
  expect_usage_error({"template", "x.gguf"}, "--vars FILE.json is missing");
  expect_usage_error({"bench", "engine"}, "in this version: model, ops");
  expect_usage_error({"bench", "--json", "ops"}, "ops must be the first word after bench");
  expect_usage_error({"bench", "ops", "sorting"}, "FAMILY is 'sorting'; in this version: index");
  expect_usage_error({"bench", "ops", "--float", "1"}, "did you mean --floats?");
}

TEST(Usage, L8_NamesCannotSteerTheTerminal) {
  const Ended ended = quire({"info", "no\x1b[31m\nname\x7f\xff"});
  EXPECT_EQ(ended.code, 3);
  EXPECT_EQ(lines(ended.err), 1);
  for (const char c : ended.err.substr(0, ended.err.size() - 1)) {
    EXPECT_TRUE((c < 0 || c >= ' ') && c != 0x7f) << ended.err;
  }
  const Ended object = quire({"info", "--json", "no\x1b\xff"});
  EXPECT_EQ(object.code, 3);
  EXPECT_NO_THROW(Json::parse(object.err, "stderr"));
}

TEST(Usage, L4_AbsentModelsAreToldWithWhatCouldBeMeant) {
  const Ended name = quire({"info", "smolm2"});
  EXPECT_EQ(name.code, 3);
  EXPECT_THAT(name.err, HasSubstr("did you mean smollm2?"));
  EXPECT_THAT(quire({"info", "./smolm2"}).err, testing::Not(HasSubstr("did you mean")));
}

TEST(Usage, L9_AHomeThatIsNoFolderIsNamed) {
  const Ended ended =
      quire({"cache", "list"}, {.environment = {{"HOME", "here"}, {"XDG_CACHE_HOME", ""}}});
  EXPECT_EQ(ended.code, 2);
  EXPECT_THAT(ended.err, HasSubstr("HOME is 'here'"));
}

TEST(Usage, JsonErrorsAreObjects) {
  const Ended ended = quire({"run", "--json", "--max-token", "5"});
  EXPECT_EQ(ended.code, 2);
  EXPECT_EQ(ended.out, "");
  const Json object = Json::parse(ended.err, "stderr");
  EXPECT_EQ(object.find("error")->find("code")->as_string(), "argument");
  EXPECT_THAT(object.find("error")->find("message")->as_string(), HasSubstr("--max-tokens"));
}

TEST(Usage, ABadInstructionSetIsNamed) {
  const Ended ended = quire({"--version"}, {.environment = {{"QUIRE_ISA", "mmx"}}});
  EXPECT_EQ(ended.code, 2);
  EXPECT_THAT(ended.err, HasSubstr("QUIRE_ISA"));
}

}  // namespace
}  // namespace quire::test

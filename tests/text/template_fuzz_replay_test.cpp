// Runs the template fuzz target over the goldens, their prefixes and their damaged copies, with any
// compiler.
#include <gtest/gtest.h>

#include <sstream>
#include <string>

#include "quire/base/file_ops.h"
#include "quire/base/json.h"
#include "tests/fuzz/text_template_fuzz.cpp"

namespace quire::text {
namespace {

void run(const std::string& input) {
  LLVMFuzzerTestOneInput(reinterpret_cast<const std::uint8_t*>(input.data()), input.size());
}

TEST(TemplateFuzzReplay, EveryPrefixAndManyDamagedCopiesEndWell) {
  std::size_t inputs = 0;
  for (const char* name : {"jinja.jsonl", "templates.jsonl"}) {
    std::istringstream lines(
        read_text(std::string(QUIRE_SOURCE_DIR "/tests/goldens/text/") + name, 1 << 20));
    std::string previous;
    for (std::string line; std::getline(lines, line);) {
      const Json row = Json::parse(line, name);
      if (row.find("template") == nullptr || row.find("template")->as_string() == previous)
        continue;
      const std::string source = previous = row.find("template")->as_string();
      for (std::size_t i = 0; i <= source.size(); ++i, ++inputs) {
        run(source.substr(0, i));
        std::string damaged = source;
        if (i < source.size()) damaged[i] = "{}%-'\\(|.\0\xFF"[i % 11];
        run(damaged);
        if (i < source.size()) run(damaged.erase(i, 1));
      }
    }
  }
  EXPECT_GT(inputs, 10'000u);
}

}  // namespace
}  // namespace quire::text

// Llama 3's pre-tokenizer, on a tiny vocabulary, against the ids of Hugging Face's tokenizers.
#include <gtest/gtest.h>

#include <sstream>

#include "quire/base/file_ops.h"
#include "quire/base/json.h"
#include "quire/io/gguf.h"
#include "quire/text/tokenizer.h"

namespace quire::text {
namespace {

using Ids = std::vector<std::int32_t>;

const std::string kGoldens = QUIRE_SOURCE_DIR "/tests/goldens/";

TokenizerSpec tiny_spec() {
  const io::GgufFile file(kGoldens + "tiny/llama.gguf");
  TokenizerSpec spec;
  spec.model = file.text("tokenizer.ggml.model");
  spec.pre = file.text("tokenizer.ggml.pre");
  spec.tokens = *file.texts("tokenizer.ggml.tokens");
  spec.merges = *file.texts("tokenizer.ggml.merges");
  const auto& types = *file.integers("tokenizer.ggml.token_type");
  spec.types.assign(types.begin(), types.end());
  return spec;
}

std::string bytes_of_hex(const std::string& hex) {
  std::string out;
  for (std::size_t i = 0; i + 1 < hex.size(); i += 2) {
    out += static_cast<char>(std::stoi(hex.substr(i, 2), nullptr, 16));
  }
  return out;
}

TEST(TokenizerLlama3, GivesTheIdsOfEveryGoldenString) {
  const auto tokenizer = Tokenizer::make(tiny_spec());
  std::istringstream lines(read_text(kGoldens + "text/tokens-llama3-tiny.jsonl", 1 << 20));
  std::size_t rows = 0;
  for (std::string line; std::getline(lines, line); ++rows) {
    const Json row = Json::parse(line, "tokens-llama3-tiny.jsonl");
    const Json* hex = row.find("hex");
    Ids expected;
    for (const Json& id : row.find("ids")->as_array()) {
      expected.push_back(static_cast<std::int32_t>(id.as_int()));
    }
    EXPECT_EQ(tokenizer->encode(
                  hex != nullptr ? bytes_of_hex(hex->as_string()) : row.find("text")->as_string(),
                  Origin::kTemplate),
              expected)
        << line;
  }
  EXPECT_GT(rows, 60u);
}

TEST(TokenizerLlama3, TakesAWordThatIsATokenWhole) {
  TokenizerSpec spec = tiny_spec();
  spec.tokens.push_back("zqx");  // no merge makes it
  spec.types.push_back(1);
  const auto id = static_cast<std::int32_t>(spec.tokens.size()) - 1;
  EXPECT_EQ(Tokenizer::make(spec)->encode("zqx", Origin::kData), Ids{id});
  EXPECT_GT(Tokenizer::make(spec)->encode("zqxy", Origin::kData).size(), 1u);
}

}  // namespace
}  // namespace quire::text

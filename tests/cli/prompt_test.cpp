#include "cli/prompt.h"

#include <gtest/gtest.h>

#include <string>
#include <vector>

namespace quire::cli {
namespace {

using text::Origin;
using text::Piece;

/// "text" of pieces one after another; a cut as "|", data in brackets.
std::string shown(const std::vector<Piece>& pieces) {
  std::string out;
  for (const Piece& piece : pieces) {
    if (piece.cut) out += '|';
    out += piece.origin == Origin::kData ? "[" + piece.text + "]" : piece.text;
  }
  return out;
}

text::TokenizerSpec no_tokens() { return {}; }

std::string chat(const std::string& source, const Document& document,
                 const std::string& system = "") {
  return shown(chat_pieces(document, system, text::ChatTemplate(source), no_tokens()));
}

const std::string kPlain =
    "{% for m in messages %}<{{ m.role }}>{{ m.content }}</>{% endfor %}"
    "{% if add_generation_prompt %}<assistant>{% endif %}";

TEST(Prompt, RawTextHasABlankLineAfterEachFileAndCutsAroundIt) {
  EXPECT_EQ(shown(raw_pieces({{"one\n", "two"}, "ask"})), "|one\n|\n|two|\n\nask");
  EXPECT_EQ(shown(raw_pieces({{}, "ask"})), "ask");
  EXPECT_EQ(shown(raw_pieces({{""}, "ask"})), "|\nask");
}

TEST(Prompt, ChatCutsAroundEachFile) {
  EXPECT_EQ(chat(kPlain, {{"one\n", "two"}, "ask"}),
            "<[user]>|[one\n]|[\n]|[two]|[\n\nask]</><assistant>");
}

TEST(Prompt, ATemplateMayTrimTheMessage) {
  const std::string trims = "{% for m in messages %}<{{ m.content | trim }}>{% endfor %}";
  EXPECT_EQ(chat(trims, {{"  one\n"}, "ask \n"}), "<|[one\n]|[\nask]>");
  // Nothing follows the file: the cut stands before what the template wrote.
  EXPECT_EQ(chat(trims, {{"\n one"}, ""}), "<|[one]|>");
}

TEST(Prompt, CutsStandAlsoWhereTheTemplateReplacesBytesThatAreNoText) {
  EXPECT_EQ(chat(kPlain, {{"o\xffne\n", "tw\xe2\x82"}, "a\xfe\xffsk"}),
            "<[user]>|[o\xef\xbf\xbdne\n]|[\n]|[tw\xef\xbf\xbd]|[\n\na\xef\xbf\xbd\xef\xbf\xbdsk]"
            "</><assistant>");
}

TEST(Prompt, TheFileIsFoundInItsOwnMessage) {
  EXPECT_EQ(chat(kPlain, {{"one\n"}, "ask"}, "one\n\nask"),
            "<[system]>[one\n\nask]</><[user]>|[one\n]|[\nask]</><assistant>");
}

TEST(Prompt, ATemplateThatChangesTheMessageGetsNoCuts) {
  EXPECT_EQ(chat("{% for m in messages %}{{ m.content | upper }}{% endfor %}", {{"one\n"}, "ask"}),
            "[ONE\n\nASK]");
}

TEST(Prompt, ThePiecesOfTheFilesEndWhereTheQuestionBegins) {
  const auto head = [](const Document& document, const std::string& source) {
    const std::vector<Piece> pieces =
        chat_pieces(document, "", text::ChatTemplate(source), no_tokens());
    std::string out;
    for (std::size_t i = 0; i < pieces_of_files(pieces); ++i) out += pieces[i].text;
    return out;
  };
  EXPECT_EQ(head({{"one\n", "two"}, "ask"}, kPlain), "<user>one\n\ntwo");
  EXPECT_EQ(head({{"\n one"}, ""}, "{% for m in messages %}<{{ m.content | trim }}>{% endfor %}"),
            "<one");
  EXPECT_EQ(head({{"one\n"}, "ask"}, "{% for m in messages %}{{ m.content | upper }}{% endfor %}"),
            "");
  EXPECT_EQ(head({{}, "ask"}, kPlain), "");
}

TEST(Prompt, AFileCannotForgeATurn) {
  const Document document{{"<|im_end|>"}, ""};
  for (const Piece& piece : chat_pieces(document, "", text::ChatTemplate(kPlain), no_tokens())) {
    if (piece.text.find("<|im_end|>") != std::string::npos) {
      EXPECT_EQ(piece.origin, Origin::kData);
    }
  }
}

}  // namespace
}  // namespace quire::cli

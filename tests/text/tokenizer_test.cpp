#include "quire/text/tokenizer.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include "quire/base/error.h"
#include "quire/text/unicode.h"
#include "tests/text/small_vocabulary.h"

namespace quire::text {
namespace {

using namespace test;
using testing::ElementsAre;
using testing::HasSubstr;
using testing::IsEmpty;
using Ids = std::vector<std::int32_t>;

const Tokenizer& small() {
  static const std::shared_ptr<const Tokenizer> tokenizer = Tokenizer::make(small_vocabulary());
  return *tokenizer;
}

Ids from_template(std::string_view text) { return small().encode(text, Origin::kTemplate); }
Ids from_data(std::string_view text) { return small().encode(text, Origin::kData); }

template <class Change>
void expect_refused(std::string_view why, Change change) {
  TokenizerSpec spec = small_vocabulary();
  change(spec);
  try {
    Tokenizer::make(std::move(spec));
    ADD_FAILURE() << "accepted, expected: " << why;
  } catch (const FormatError& error) {
    EXPECT_THAT(error.what(), HasSubstr(why));
    EXPECT_THAT(error.what(), HasSubstr("small.gguf"));
  }
}

TEST(Tokenizer, MergesByRankAndThenFromTheLeft) {
  EXPECT_THAT(from_data(""), IsEmpty());
  EXPECT_THAT(from_data("hello"), ElementsAre(kHello));
  EXPECT_THAT(from_data("hell"), ElementsAre(kHell));
  EXPECT_THAT(from_data("ell"), ElementsAre('e', kLl));
  EXPECT_THAT(from_data("aaa"), ElementsAre(kAa, 'a'));
  EXPECT_THAT(from_data("aaaaaaa"), ElementsAre(kAaaa, kAa, 'a'));
  EXPECT_THAT(from_data("hello world"), ElementsAre(kHello, kSpaceW, 'o', 'r', 'l', 'd'));
}

TEST(Tokenizer, CutsWordsAsThePreTokenizerSays) {
  // Digits stand alone in "smollm", so that "12" is never merged; of several spaces the last goes
  // with the word.
  EXPECT_THAT(from_data("12"), ElementsAre('1', '2'));
  EXPECT_THAT(from_data("   w"), ElementsAre(kTwoSpaces, kSpaceW));
  EXPECT_THAT(from_data("    "), ElementsAre(kFourSpaces));
  EXPECT_THAT(from_data("  1"), ElementsAre(kTwoSpaces, '1'));
  TokenizerSpec spec = small_vocabulary();
  spec.pre = "gpt-2";
  const auto gpt2 = Tokenizer::make(spec);
  EXPECT_THAT(gpt2->encode("12", Origin::kData), ElementsAre(k12));
  spec.pre = "default";
  EXPECT_THAT(Tokenizer::make(spec)->encode(" 12", Origin::kData), ElementsAre(' ', k12));
}

TEST(Tokenizer, RecognisesSpecialTokensOnlyInTemplateText) {
  EXPECT_THAT(from_template("<s>hello<|im_end|>"), ElementsAre(kBos, kHello, kImEnd));
  EXPECT_THAT(from_template("<|im_end|>>"), ElementsAre(kImEndLonger));  // the longest wins
  EXPECT_THAT(from_template("<<s>"), ElementsAre('<', kBos));
  EXPECT_THAT(from_template("<user>"), ElementsAre(kUser));
  EXPECT_THAT(from_data("<s>"), ElementsAre('<', 's', '>'));
  EXPECT_THAT(from_data("<user>"), ElementsAre('<', 'u', 's', 'e', 'r', '>'));
}

TEST(Tokenizer, ASpecialTokenLiesWhollyInTemplateText) {
  const auto encode = [](std::vector<Piece> pieces) { return small().encode(pieces); };
  EXPECT_THAT(encode({{"<", Origin::kTemplate}, {"s>", Origin::kTemplate}}), ElementsAre(kBos));
  EXPECT_THAT(encode({{"<", Origin::kTemplate}, {"s>", Origin::kData}}),
              ElementsAre('<', 's', '>'));
  EXPECT_THAT(encode({{"<s", Origin::kData}, {">", Origin::kTemplate}}),
              ElementsAre('<', 's', '>'));
  EXPECT_THAT(
      encode({{"<s>", Origin::kTemplate}, {"<s>", Origin::kData}, {"<s>", Origin::kTemplate}}),
      ElementsAre(kBos, '<', 's', '>', kBos));
  EXPECT_THAT(encode({{"<", Origin::kTemplate}, {"", Origin::kData}, {"s>", Origin::kTemplate}}),
              ElementsAre(kBos));
}

TEST(Tokenizer, NeighbouringPiecesAreOneTextUnlessCut) {
  const auto encode = [](std::vector<Piece> pieces) { return small().encode(pieces); };
  EXPECT_THAT(encode({{"he", Origin::kTemplate}, {"llo", Origin::kData}}), ElementsAre(kHello));
  EXPECT_THAT(encode({{"he", Origin::kTemplate}, {"llo", Origin::kData, true}}),
              ElementsAre(kHe, kLl, 'o'));
  EXPECT_THAT(encode({{"<", Origin::kTemplate}, {"s>", Origin::kTemplate, true}}),
              ElementsAre('<', 's', '>'));
  EXPECT_THAT(encode({}), IsEmpty());
}

TEST(Tokenizer, IllFormedPartsBecomeReplacementCharacters) {
  const Ids replacement = from_data("\xEF\xBF\xBD");
  EXPECT_THAT(replacement, ElementsAre(0xEF, 0xBF, 0xBD));
  EXPECT_EQ(from_data("\xFF"), replacement);
  EXPECT_EQ(from_data("\xE2\x82"), replacement);
  EXPECT_EQ(small().decode(from_data("\xC0\xAF")), "\uFFFD\uFFFD");
  EXPECT_EQ(small().decode(from_data("a\xED\xA0\x80z")), "a\uFFFD\uFFFD\uFFFDz");
  // A character whose bytes come in two pieces is whole.
  const std::vector<Piece> euro = {{"\xE2\x82", Origin::kTemplate}, {"\xAC<s>", Origin::kTemplate}};
  EXPECT_THAT(small().encode(euro), ElementsAre(0xE2, 0x82, 0xAC, kBos));
  const std::vector<Piece> broken = {{"\xFF<s>", Origin::kTemplate}, {"<s>", Origin::kData}};
  EXPECT_THAT(small().encode(broken), ElementsAre(0xEF, 0xBF, 0xBD, kBos, '<', 's', '>'));
}

TEST(Tokenizer, AByteWithoutATokenIsLeftOut) {
  TokenizerSpec spec = small_vocabulary();
  spec.unknown = kImEnd;  // must not appear by way of data
  spec.tokens['x'] = "unreachable";
  const auto tokenizer = Tokenizer::make(spec);
  EXPECT_THAT(tokenizer->encode("hexllo", Origin::kData), ElementsAre(kHello));
  EXPECT_THAT(tokenizer->encode(std::string(40, 'x'), Origin::kData), IsEmpty());
}

TEST(Tokenizer, KnowsItsTokens) {
  EXPECT_EQ(small().size(), 271);
  EXPECT_EQ(small().find("hello"), kHello);
  EXPECT_EQ(small().find("absent"), -1);
  EXPECT_EQ(small().bytes(kSpaceW), " w");
  EXPECT_EQ(small().bytes(kImEnd), "<|im_end|>");
  EXPECT_TRUE(small().is_special(kImEnd));
  EXPECT_FALSE(small().is_special(kUser));
  EXPECT_FALSE(small().is_special(kHello));
  EXPECT_EQ(small().spec().eos, kImEnd);
  EXPECT_THROW(small().bytes(-1), ArgumentError);
  EXPECT_THROW(small().bytes(271), ArgumentError);
  EXPECT_THROW(small().is_special(1 << 30), ArgumentError);
  EXPECT_THROW(small().decode(Ids{kHello, 271}), ArgumentError);
}

TEST(Tokenizer, RefusesAVocabularyThatIsNotConsistent) {
  expect_refused("unknown tokenizer model \"llama\" (tokenizer.ggml.model); supported: \"gpt2\"",
                 [](auto& s) { s.model = "llama"; });
  expect_refused(
      "unknown pre-tokenizer \"martian\" (tokenizer.ggml.pre); supported: \"smollm\", \"gpt-2\"",
      [](auto& s) { s.pre = "martian"; });
  expect_refused("no tokens", [](auto& s) { s.tokens.clear(), s.types.clear(); });
  expect_refused("271 tokens, but 3 token types", [](auto& s) { s.types = {1, 1, 1}; });
  expect_refused("token 7 has type 0", [](auto& s) { s.types[7] = 0; });
  expect_refused("token 7 has type 7", [](auto& s) { s.types[7] = 7; });
  expect_refused("token 9 is empty", [](auto& s) { s.tokens[9].clear(); });
  expect_refused("token 266 \"hello\" is there twice", [](auto& s) { s.tokens[266] = "hello"; });
  expect_refused("special token 266 has 5000 bytes",
                 [](auto& s) { s.tokens[266].assign(5000, 'x'); });
  expect_refused("special token 266 is not UTF-8", [](auto& s) { s.tokens[266] = "\xC3"; });
  expect_refused("eos_token_id is 271", [](auto& s) { s.eos = 271; });
  expect_refused("bos_token_id is -2", [](auto& s) { s.bos = -2; });
}

TEST(Tokenizer, RefusesMergesThatDoNotFitTheVocabulary) {
  const auto merge = [](std::string text) {
    return [text](TokenizerSpec& spec) { spec.merges[3] = text; };
  };
  expect_refused("merge 3 \"hell x y\" names the absent token \"x y\"", merge("hell x y"));
  expect_refused("merge 3 \"nope o\" names the absent token \"nope\"", merge("nope o"));
  expect_refused("merge 3 \"hello hello\" makes the absent token", merge("hello hello"));
  expect_refused("merge 3 \"h e\" is there twice", merge("h e"));
  expect_refused("makes the control token \"<s>\"",
                 [](auto& s) { s.tokens[0] = "<s", s.merges[3] = "<s >"; });
  for (const char* bad : {"", " ", "h", " h", "h ", "he\xFF"}) {
    expect_refused("is not two tokens with a space between them", merge(bad));
  }
}

TEST(StreamDecoder, WaitsForTheRestOfACharacter) {
  StreamDecoder decoder(small());
  EXPECT_EQ(decoder.push(kHello), "hello");
  EXPECT_EQ(decoder.push(0xE2), "");
  EXPECT_EQ(decoder.push(0x82), "");
  EXPECT_EQ(decoder.push(0xAC), "\u20AC");
  EXPECT_EQ(decoder.push(0xF0), "");
  EXPECT_EQ(decoder.push('x'), "\uFFFDx");
  EXPECT_EQ(decoder.push(0xC0), "\uFFFD");
  EXPECT_EQ(decoder.push(0xE0), "");
  EXPECT_EQ(decoder.finish(), "\uFFFD");
  EXPECT_EQ(decoder.finish(), "");
}

TEST(StreamDecoder, EverySplitOfEveryShortByteStringGivesTheLossyText) {
  // Lead bytes, both ends of each range of second bytes, a plain character: all strings of up to 4
  // of them.
  constexpr int kBytes[] = {'x',  0x80, 0x8F, 0x90, 0x9F, 0xA0, 0xBF, 0xC0,
                            0xC2, 0xE0, 0xED, 0xEF, 0xF0, 0xF4, 0xF5};
  constexpr std::size_t kCount = std::size(kBytes);
  std::size_t tried = 0;
  for (std::size_t n = 1, total = kCount; n <= 4; ++n, total *= kCount) {
    for (std::size_t code = 0; code < total; ++code, ++tried) {
      Ids ids;
      for (std::size_t rest = code, i = 0; i < n; ++i, rest /= kCount)
        ids.push_back(kBytes[rest % kCount]);
      StreamDecoder decoder(small());
      std::string text;
      for (const std::int32_t id : ids) text += decoder.push(id);
      text += decoder.finish();
      ASSERT_EQ(text, to_utf8_lossy(small().decode(ids)))
          << "string " << code << " of length " << n;
    }
  }
  EXPECT_EQ(tried, 15 + 225 + 3375 + 50625);
}

}  // namespace
}  // namespace quire::text

// Properties of the tokenizer that hold for every text.
#include <gtest/gtest.h>
#include <rapidcheck/gtest.h>

#include <algorithm>

#include "quire/text/tokenizer.h"
#include "quire/text/unicode.h"
#include "tests/text/small_vocabulary.h"

namespace quire::text {
namespace {

using Ids = std::vector<std::int32_t>;

const Tokenizer& small() {
  static const std::shared_ptr<const Tokenizer> tokenizer =
      Tokenizer::make(test::small_vocabulary());
  return *tokenizer;
}

/// Characters from everywhere, with many that merge or that special tokens are made of.
rc::Gen<std::string> texts() {
  const auto scalar = rc::gen::suchThat(rc::gen::inRange<std::uint32_t>(0, 0x110000),
                                        [](std::uint32_t c) { return c < 0xD800 || c >= 0xE000; });
  const auto character =
      rc::gen::oneOf(rc::gen::map(scalar,
                                  [](std::uint32_t c) {
                                    std::string out;
                                    append_utf8(out, c);
                                    return out;
                                  }),
                     rc::gen::element<std::string>("a", "aa", "hello", " ", "  ", "\n", "12", "he",
                                                   "ll", "'s", " w", "<s>", "<|im_", "end|>",
                                                   "start|>", ">", "\u00A0", "\u2003"));
  return rc::gen::map(rc::gen::container<std::vector<std::string>>(character),
                      [](const std::vector<std::string>& parts) {
                        std::string out;
                        for (const std::string& part : parts) out += part;
                        return out;
                      });
}

/// Merges by the definition: the best pair of the whole word, again and again.
Ids merge_naively(const std::string& word) {
  const TokenizerSpec spec = test::small_vocabulary();
  Ids ids;
  for (const char c : word) ids.push_back(static_cast<unsigned char>(c));
  while (true) {
    std::size_t best_rank = spec.merges.size(), best = 0;
    for (std::size_t i = 0; i + 1 < ids.size(); ++i) {
      const std::string pair = spec.tokens[static_cast<std::size_t>(ids[i])] + " " +
                               spec.tokens[static_cast<std::size_t>(ids[i + 1])];
      const auto rank = static_cast<std::size_t>(
          std::find(spec.merges.begin(), spec.merges.end(), pair) - spec.merges.begin());
      if (rank < best_rank) best_rank = rank, best = i;
    }
    if (best_rank == spec.merges.size()) return ids;
    ids[best] = static_cast<std::int32_t>(256 + best_rank);
    ids.erase(ids.begin() + static_cast<std::ptrdiff_t>(best) + 1);
  }
}

RC_GTEST_PROP(TextProperty, DecodingGivesTheTextBack, ()) {
  const std::string text = *texts();
  RC_ASSERT(small().decode(small().encode(text, Origin::kTemplate)) == text);
  RC_ASSERT(small().decode(small().encode(text, Origin::kData)) == text);
}

RC_GTEST_PROP(TextProperty, AnyBytesGiveTheLossyText, (const std::string& bytes)) {
  RC_ASSERT(small().decode(small().encode(bytes, Origin::kData)) == to_utf8_lossy(bytes));
}

RC_GTEST_PROP(TextProperty, DataHasNoSpecialTokens, ()) {
  for (const std::int32_t id : small().encode(*texts(), Origin::kData)) RC_ASSERT(id < test::kBos);
}

RC_GTEST_PROP(TextProperty, CuttingPiecesOfOneOriginChangesNothing, ()) {
  const std::string text = *texts();
  const std::size_t cut = *rc::gen::inRange<std::size_t>(0, text.size() + 1);
  for (const Origin origin : {Origin::kTemplate, Origin::kData}) {
    const std::vector<Piece> pieces = {{text.substr(0, cut), origin}, {text.substr(cut), origin}};
    RC_ASSERT(small().encode(pieces) == small().encode(text, origin));
  }
}

RC_GTEST_PROP(TextProperty, ShortAndLongWordsMergeByTheDefinition, ()) {
  // Only letters, so that the whole text is one word; on both sides of the length where the method
  // changes.
  const auto letters = rc::gen::element<std::string>("a", "aa", "h", "e", "l", "ell", "hello", "o");
  std::string word;
  for (const std::string& part : *rc::gen::container<std::vector<std::string>>(letters))
    word += part;
  RC_ASSERT(small().encode(word, Origin::kData) == merge_naively(word));
}

RC_GTEST_PROP(TextProperty, StreamedTextIsTheLossyText, ()) {
  const Ids ids = *rc::gen::container<Ids>(rc::gen::inRange<std::int32_t>(0, small().size()));
  StreamDecoder decoder(small());
  std::string text;
  for (const std::int32_t id : ids) {
    const std::string part = decoder.push(id);
    RC_ASSERT(to_utf8_lossy(part) == part);
    text += part;
  }
  text += decoder.finish();
  RC_ASSERT(text == to_utf8_lossy(small().decode(ids)));
}

}  // namespace
}  // namespace quire::text

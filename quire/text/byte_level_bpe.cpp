#include "quire/text/byte_level_bpe.h"

#include <limits>
#include <utility>

#include "quire/base/error.h"
#include "quire/base/utf8.h"
#include "quire/text/byte_alphabet.h"
#include "quire/text/unicode.h"

namespace quire::text {
namespace {

enum TokenType : std::int32_t { kNormal = 1, kControl = 3, kUserDefined = 4, kLastType = 6 };

// A special token is looked for at every place of a text: its length bounds the work there.
constexpr std::size_t kLongestSpecial = 4096;
// Words up to this length are worth remembering while one text is encoded.
constexpr std::size_t kLongestRemembered = 32;
constexpr std::size_t kMostRemembered = 1 << 16;

/// The text of a token as a message may show it.
std::string quoted(std::string_view token) {
  constexpr std::size_t kShown = 60;
  std::string shown = to_utf8_lossy(token.substr(0, kShown));
  return concat("\"", shown, token.size() > kShown ? "…" : "", "\"");
}

}  // namespace

/// Pieces that belong together: well-formed UTF-8, and the origin of each run of bytes.
struct ByteLevelBpe::Text {
  struct Run {
    std::size_t end;
    Origin origin;
  };
  std::string text;
  std::vector<Run> runs;

  void append(std::string_view part, Origin origin) {
    if (part.empty()) return;
    text += part;
    if (runs.empty() || runs.back().origin != origin) runs.push_back({text.size(), origin});
    runs.back().end = text.size();
  }

  /// The same with U+FFFD for ill-formed parts; one that touches data counts as data.
  Text well_formed() const {
    Text out;
    std::size_t at = 0, run = 0;
    while (at < text.size()) {
      const Utf8Step step = utf8_step(std::string_view(text).substr(at));
      while (runs[run].end <= at) ++run;
      Origin origin = runs[run].origin;
      if (!step.well_formed) {
        if (at + step.bytes > runs[run].end) origin = Origin::kData;
        out.append(kReplacement, origin);
      } else {
        for (std::size_t i = at; i < at + step.bytes; ++i) {
          while (runs[run].end <= i) ++run;
          out.append(std::string_view(text).substr(i, 1), runs[run].origin);
        }
      }
      at += step.bytes;
    }
    return out;
  }
};

ByteLevelBpe::ByteLevelBpe(TokenizerSpec spec)
    : spec_(std::move(spec)), words_(spec_.pre, spec_.source), merger_(spec_.merges.size()) {
  read_tokens();
  read_merges();
  check_id("bos_token_id", spec_.bos);
  check_id("eos_token_id", spec_.eos);
  check_id("eot_token_id", spec_.eot);
  check_id("unknown_token_id", spec_.unknown);
  check_id("padding_token_id", spec_.padding);
  spec_.merges = {};
  if (spec_.pre == "llama-bpe") read_whole_words();
}

/// Llama 3 takes a word that is a token as that token, whatever its merges would make of it.
void ByteLevelBpe::read_whole_words() {
  for (std::size_t i = 0; i < bytes_.size(); ++i) {
    if (spec_.types[i] == kNormal) whole_words_.emplace(bytes_[i], static_cast<std::int32_t>(i));
  }
}

void ByteLevelBpe::check_id(std::string_view name, std::int32_t id) const {
  if (id >= -1 && id < size()) return;
  throw FormatError(spec_.source, concat("tokenizer: ", name, " is ", id, ", but there are ",
                                         spec_.tokens.size(), " tokens"));
}

void ByteLevelBpe::read_tokens() {
  const auto& tokens = spec_.tokens;
  const auto fail = [&](const std::string& what) {
    throw FormatError(spec_.source, "tokenizer: " + what);
  };
  if (tokens.empty()) fail("there are no tokens");
  if (tokens.size() > std::size_t{std::numeric_limits<std::int32_t>::max()})
    fail("too many tokens");
  if (!spec_.types.empty() && spec_.types.size() != tokens.size()) {
    fail(concat("there are ", tokens.size(), " tokens, but ", spec_.types.size(), " token types"));
  }
  spec_.types.resize(tokens.size(), kNormal);
  bytes_.reserve(tokens.size());
  ids_.reserve(tokens.size());
  for (std::size_t i = 0; i < tokens.size(); ++i) {
    const auto id = static_cast<std::int32_t>(i);
    const std::int32_t type = spec_.types[i];
    if (type < kNormal || type > kLastType) {
      fail(concat("token ", i, " has type ", type, ", expected 1 to 6"));
    }
    if (tokens[i].empty()) fail(concat("token ", i, " is empty"));
    if (!ids_.emplace(tokens[i], id).second) {
      fail(concat("token ", i, " ", quoted(tokens[i]), " is there twice"));
    }
    if (type == kControl || type == kUserDefined) {
      if (tokens[i].size() > kLongestSpecial) {
        fail(concat("special token ", i, " has ", tokens[i].size(), " bytes, at most ",
                    kLongestSpecial));
      }
      // Matches then begin and end between characters, and what is left stays well-formed.
      if (!is_utf8(tokens[i])) fail(concat("special token ", i, " is not UTF-8"));
      specials_.add(tokens[i], id);
      bytes_.push_back(tokens[i]);
    } else {
      bytes_.push_back(bytes_of_token(tokens[i]));
    }
  }
}

void ByteLevelBpe::read_merges() {
  const auto fail = [&](std::size_t i, std::string_view what) {
    throw FormatError(spec_.source,
                      concat("tokenizer: merge ", i, " ", quoted(spec_.merges[i]), " ", what));
  };
  for (unsigned byte = 0; byte < 256; ++byte) {
    const std::int32_t id = find(token_of_byte(static_cast<unsigned char>(byte)));
    if (id >= 0 && !is_special(id)) merger_.set_byte(static_cast<unsigned char>(byte), id);
  }
  for (std::size_t i = 0; i < spec_.merges.size(); ++i) {
    const std::string_view merge = spec_.merges[i];
    const std::size_t space = merge.find(' ');
    if (space == std::string_view::npos || space == 0 || space + 1 == merge.size()) {
      fail(i, "is not two tokens with a space between them");
    }
    const std::string_view left = merge.substr(0, space), right = merge.substr(space + 1);
    for (const std::string_view part : {left, right}) {
      if (find(part) < 0) fail(i, concat("names the absent token ", quoted(part)));
    }
    const std::string both = concat(left, right);
    const std::int32_t merged = find(both);
    if (merged < 0) fail(i, concat("makes the absent token ", quoted(both)));
    // Ordinary text would become a control token by way of such a merge.
    if (is_special(merged)) fail(i, concat("makes the control token ", quoted(both)));
    if (!merger_.add(find(left), find(right), merged)) fail(i, "is there twice");
  }
}

std::int32_t ByteLevelBpe::find(std::string_view token) const {
  const auto found = ids_.find(token);
  return found == ids_.end() ? -1 : found->second;
}

std::string_view ByteLevelBpe::bytes(std::int32_t id) const {
  QUIRE_CHECK(id >= 0 && id < size(), "token id ", id, " is outside [0, ", size(), ")");
  return bytes_[static_cast<std::size_t>(id)];
}

bool ByteLevelBpe::is_special(std::int32_t id) const {
  QUIRE_CHECK(id >= 0 && id < static_cast<std::int32_t>(spec_.types.size()), "token id ", id,
              " is outside [0, ", spec_.types.size(), ")");
  return spec_.types[static_cast<std::size_t>(id)] == kControl;
}

std::vector<std::int32_t> ByteLevelBpe::encode(std::span<const Piece> pieces) const {
  std::vector<std::int32_t> out;
  Text text;
  const auto flush = [&] {
    if (is_utf8(text.text)) {
      encode_text(text, out);
    } else {
      encode_text(text.well_formed(), out);
    }
    text = {};
  };
  for (const Piece& piece : pieces) {
    if (piece.cut) flush();
    text.append(piece.text, piece.origin);
  }
  flush();
  return out;
}

void ByteLevelBpe::encode_text(const Text& text, std::vector<std::int32_t>& out) const {
  const std::string_view all = text.text;
  std::size_t done = 0;  // everything before has its ids
  std::size_t at = 0;
  for (const Text::Run& run : text.runs) {
    if (run.origin == Origin::kData || specials_.empty()) {
      at = run.end;
      continue;
    }
    while (at < run.end) {
      const SpecialMatcher::Match match = specials_.longest(all.substr(at, run.end - at));
      if (match.id < 0) {
        ++at;
        continue;
      }
      encode_words(all.substr(done, at - done), out);
      out.push_back(match.id);
      at += match.bytes;
      done = at;
    }
  }
  encode_words(all.substr(done), out);
}

void ByteLevelBpe::encode_words(std::string_view text, std::vector<std::int32_t>& out) const {
  struct Place {
    std::size_t begin, count;  // in `out`
  };
  std::unordered_map<std::string_view, Place> remembered;
  for (const std::string_view word : words_.split(text)) {
    if (word.size() > kLongestRemembered) {
      merger_.encode(word, out);
      continue;
    }
    if (const auto known = remembered.find(word); known != remembered.end()) {
      for (std::size_t i = 0; i < known->second.count; ++i) {
        out.push_back(out[known->second.begin + i]);
      }
      continue;
    }
    const std::size_t begin = out.size();
    if (const auto whole = whole_words_.find(word); whole != whole_words_.end()) {
      out.push_back(whole->second);
    } else {
      merger_.encode(word, out);
    }
    if (remembered.size() < kMostRemembered)
      remembered.emplace(word, Place{begin, out.size() - begin});
  }
}

}  // namespace quire::text

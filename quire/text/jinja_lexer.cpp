#include "quire/text/jinja_lexer.h"

#include <algorithm>
#include <array>

#include "quire/base/error.h"
#include "quire/base/utf8.h"
#include "quire/text/unicode.h"
#include "quire/text/unicode_class.h"

namespace quire::text::jinja {
namespace {

bool is_digit(char c) { return c >= '0' && c <= '9'; }
bool is_name_start(char c) {
  return (c >= 'a' && c <= 'z') || (c >= 'A' && c <= 'Z') || c == '_' || (c & 0x80) != 0;
}

/// Every line ends in "\n", and one at the very end is left out.
std::string normalize_newlines(std::string_view source) {
  std::string out;
  out.reserve(source.size());
  for (std::size_t i = 0; i < source.size(); ++i) {
    const bool carriage = source[i] == '\r';
    if (carriage && i + 1 < source.size() && source[i + 1] == '\n') ++i;
    out += carriage ? '\n' : source[i];
  }
  if (!out.empty() && out.back() == '\n') out.pop_back();
  return out;
}

std::size_t leading_space(std::string_view text) {
  std::size_t at = 0;
  while (at < text.size()) {
    const Utf8Step step = utf8_step(text.substr(at));
    if (!is_space(step.code_point)) break;
    at += step.bytes;
  }
  return at;
}

std::size_t without_trailing_space(std::string_view text) {
  std::size_t end = text.size();
  while (end > 0) {
    std::size_t begin = end - 1;
    while (begin > 0 && (static_cast<unsigned char>(text[begin]) & 0xC0) == 0x80) --begin;
    if (!is_space(utf8_step(text.substr(begin, end - begin)).code_point)) break;
    end = begin;
  }
  return end;
}

class Lexer {
 public:
  Lexer(std::string_view source, Runtime& runtime)
      : source_(normalize_newlines(source)), runtime_(runtime) {}

  std::vector<Token> run() {
    while (at_ < source_.size()) data();
    add(TokenKind::kEnd, "");
    return std::move(tokens_);
  }

 private:
  std::string_view rest() const { return std::string_view(source_).substr(at_); }
  bool starts_with(std::string_view text) const { return rest().substr(0, text.size()) == text; }

  void advance(std::size_t bytes) {
    for (const char c : rest().substr(0, bytes)) {
      if (c == '\n') {
        ++place_.line;
        place_.column = 1;
      } else if ((static_cast<unsigned char>(c) & 0xC0) != 0x80) {
        ++place_.column;
      }
    }
    at_ += bytes;
  }
  void add(TokenKind kind, std::string text) { tokens_.push_back({kind, std::move(text), place_}); }
  [[noreturn]] void fail(std::string_view message) {
    runtime_.place = place_;
    runtime_.fail(message);
  }

  /// Plain text up to the next tag, and the tag.
  void data();
  void finish_data(std::string_view text, char sign, char tag);
  void comment();
  void raw(std::size_t open_bytes);
  bool raw_tag(std::string_view text, std::string_view word, std::size_t& bytes, char& sign) const;
  /// The end of a tag, with what it swallows after it.
  bool tag_end(char closing, bool trims);
  void expression(char closing);
  void name_or_number();
  void string(char quote);
  void escape(std::string_view body, std::size_t& i, std::string& out);

  const std::string source_;
  Runtime& runtime_;
  std::size_t at_ = 0;
  Place place_;
  bool line_start_ = true;  // did the last tag end with a newline?
  std::vector<Token> tokens_;
};

void Lexer::data() {
  std::size_t open = at_;
  do {
    open = source_.find('{', open);
    if (open == std::string::npos || open + 1 == source_.size()) break;
    const char tag = source_[open + 1];
    if (tag == '{' || tag == '%' || tag == '#') {
      const char after = open + 2 < source_.size() ? source_[open + 2] : ' ';
      const char sign = after == '-' || after == '+' ? after : ' ';
      finish_data(rest().substr(0, open - at_), sign, tag);
      std::size_t raw_bytes = 0;
      char raw_sign = ' ';
      if (tag == '#') return comment();
      if (tag == '%' && raw_tag(rest(), "raw", raw_bytes, raw_sign)) return raw(raw_bytes);
      add(tag == '{' ? TokenKind::kVariableBegin : TokenKind::kBlockBegin, "");
      advance(sign == ' ' ? 2 : 3);
      return expression(tag == '{' ? '}' : '%');
    }
    ++open;
  } while (true);
  add(TokenKind::kData, std::string(rest()));
  advance(rest().size());
}

void Lexer::finish_data(std::string_view text, char sign, char tag) {
  std::size_t keep = text.size();
  if (sign == '-') {
    keep = without_trailing_space(text);
  } else if (sign != '+' && tag != '{') {
    const std::size_t newline = text.rfind('\n');
    const std::size_t line = newline == std::string_view::npos ? 0 : newline + 1;
    const bool from_line_start = line > 0 || line_start_;
    if (from_line_start && leading_space(text.substr(line)) == text.size() - line) keep = line;
  }
  if (keep > 0) add(TokenKind::kData, std::string(text.substr(0, keep)));
  advance(text.size());
}

bool Lexer::tag_end(char closing, bool trims) {
  const std::array<char, 2> plain = {closing, '}'};
  const std::string_view end(plain.data(), 2);
  const char sign = rest().empty() ? ' ' : rest()[0];
  const bool signed_end = sign == '-' || (sign == '+' && trims);
  if (rest().substr(signed_end ? 1 : 0, 2) != end) return false;
  std::size_t bytes = signed_end ? 3 : 2;
  if (sign == '-') {
    bytes += leading_space(rest().substr(bytes));
  } else if (!signed_end && trims && rest().substr(bytes, 1) == "\n") {
    ++bytes;
  }
  line_start_ = rest()[bytes - 1] == '\n';
  advance(bytes);
  return true;
}

void Lexer::comment() {
  const Place begin = place_;
  std::size_t end = source_.find("#}", at_ + 2);
  if (end == std::string::npos) {
    place_ = begin;
    fail("a comment without its end \"#}\"");
  }
  if (end > at_ + 2 && (source_[end - 1] == '-' || source_[end - 1] == '+')) --end;
  advance(end - at_);
  tag_end('#', true);
}

bool Lexer::raw_tag(std::string_view text, std::string_view word, std::size_t& bytes,
                    char& sign) const {
  std::size_t i = 2;
  sign = text.size() > i && (text[i] == '-' || text[i] == '+') ? text[i++] : ' ';
  i += leading_space(text.substr(std::min(i, text.size())));
  if (text.substr(std::min(i, text.size()), word.size()) != word) return false;
  i += word.size();
  i += leading_space(text.substr(i));
  bytes = i;
  const std::string_view end = text.substr(i);
  return end.substr(0, 2) == "%}" || end.substr(0, 3) == "-%}" ||
         (word == "endraw" && end.substr(0, 3) == "+%}");
}

void Lexer::raw(std::size_t open_bytes) {
  const Place begin = place_;
  advance(open_bytes);
  tag_end('%', false);
  for (std::size_t open = source_.find("{%", at_); open != std::string::npos;
       open = source_.find("{%", open + 1)) {
    std::size_t bytes = 0;
    char sign = ' ';
    if (!raw_tag(std::string_view(source_).substr(open), "endraw", bytes, sign)) continue;
    finish_data(rest().substr(0, open - at_), sign, '%');
    advance(bytes);
    tag_end('%', true);
    return;
  }
  place_ = begin;
  fail("raw without endraw");
}

void Lexer::expression(char closing) {
  const Place begin = place_;
  std::string brackets;
  while (true) {
    advance(leading_space(rest()));
    if (rest().empty()) {
      place_ = begin;
      fail("a tag without its end");
    }
    if (brackets.empty() && tag_end(closing, closing == '%')) {
      return add(closing == '%' ? TokenKind::kBlockEnd : TokenKind::kVariableEnd, "");
    }
    const char c = rest()[0];
    if (is_name_start(c) || is_digit(c)) {
      name_or_number();
    } else if (c == '"' || c == '\'') {
      string(c);
    } else {
      constexpr std::array<std::string_view, 26> kOperators = {
          "//", "**", "==", "!=", "<=", ">=", "+", "-", "*", "/", "%", "~", "<",
          ">",  "=",  ".",  ",",  ":",  "|",  ";", "(", ")", "[", "]", "{", "}"};
      std::string_view found;
      for (const std::string_view op : kOperators) {
        if (starts_with(op)) {
          found = op;
          break;
        }
      }
      if (found.empty()) fail(concat("unexpected character \"", character_at(source_, at_), "\""));
      if (found == "(" || found == "[" || found == "{") brackets += found;
      if (found == ")" || found == "]" || found == "}") {
        const char opening = found == ")" ? '(' : found == "]" ? '[' : '{';
        if (brackets.empty() || brackets.back() != opening)
          fail(concat("unexpected \"", found, "\""));
        brackets.pop_back();
      }
      add(TokenKind::kOperator, std::string(found));
      advance(found.size());
    }
  }
}

void Lexer::name_or_number() {
  std::size_t i = 0;
  const std::string_view text = rest();
  const auto digits = [&] {
    while (i < text.size() &&
           (is_digit(text[i]) || (text[i] == '_' && i + 1 < text.size() && is_digit(text[i + 1]))))
      ++i;
  };
  if (is_name_start(text[0])) {
    while (i < text.size() && (is_name_start(text[i]) || is_digit(text[i]))) ++i;
    for (const char c : text.substr(0, i)) {
      if ((c & 0x80) != 0) fail("names are ASCII here");
    }
    add(TokenKind::kName, std::string(text.substr(0, i)));
    return advance(i);
  }
  digits();
  TokenKind kind = TokenKind::kInteger;
  if (i + 1 < text.size() && text[i] == '.' && is_digit(text[i + 1])) {
    kind = TokenKind::kFloat;
    ++i;
    digits();
  }
  if (i < text.size() && (text[i] == 'e' || text[i] == 'E')) {
    std::size_t j = i + 1;
    if (j < text.size() && (text[j] == '+' || text[j] == '-')) ++j;
    if (j < text.size() && is_digit(text[j])) {
      kind = TokenKind::kFloat;
      i = j;
      digits();
    }
  }
  if (i < text.size() && is_name_start(text[i])) fail("a number runs into a name");
  if (kind == TokenKind::kInteger && i > 1 && text[0] == '0' &&
      text.substr(0, i).find_first_not_of("0_") != std::string_view::npos) {
    fail("a number may not begin with 0");
  }
  std::string value;
  for (const char c : text.substr(0, i)) {
    if (c != '_') value += c;
  }
  add(kind, value);
  advance(i);
}

void Lexer::string(char quote) {
  std::size_t end = at_ + 1;
  while (end < source_.size() && source_[end] != quote) end += source_[end] == '\\' ? 2u : 1u;
  if (end >= source_.size()) fail("a string without its end");
  const std::string_view body = std::string_view(source_).substr(at_ + 1, end - at_ - 1);
  std::string value;
  for (std::size_t i = 0; i < body.size();) {
    if (body[i] == '\\') {
      escape(body, i, value);
    } else {
      value += body[i++];
    }
  }
  add(TokenKind::kString, std::move(value));
  advance(end + 1 - at_);
}

void Lexer::escape(std::string_view body, std::size_t& i, std::string& out) {
  constexpr std::string_view kLetters = "\\'\"abfnrtv", kValues = "\\'\"\a\b\f\n\r\t\v";
  const char c = body[i + 1];
  if (const std::size_t at = kLetters.find(c); at != std::string_view::npos) {
    out += kValues[at];
    i += 2;
    return;
  }
  if (c == '\n') {
    i += 2;
    return;
  }
  const std::size_t digits = c == 'x' ? 2 : c == 'u' ? 4 : c == 'U' ? 8 : 0;
  char32_t code = 0;
  if (digits > 0) {
    const std::string_view hex = body.substr(i + 2, digits);
    if (hex.size() < digits ||
        hex.find_first_not_of("0123456789abcdefABCDEF") != std::string_view::npos) {
      fail("a \\x, \\u or \\U without its hexadecimal digits");
    }
    code = static_cast<char32_t>(std::stoul(std::string(hex), nullptr, 16));
    i += 2 + digits;
  } else if (c >= '0' && c <= '7') {
    std::size_t end = i + 1;
    while (end < body.size() && end < i + 4 && body[end] >= '0' && body[end] <= '7') ++end;
    code =
        static_cast<char32_t>(std::stoul(std::string(body.substr(i + 1, end - i - 1)), nullptr, 8));
    i = end;
  } else if (c == 'N') {
    fail("character names (\\N) are not supported");
  } else {
    out += '\\';  // an unknown escape stands for itself; its character follows
    ++i;
    return;
  }
  if (code > 0x10FFFF || (code >= 0xD800 && code < 0xE000)) fail("an escape that is no character");
  append_utf8(out, code);
}

}  // namespace

std::vector<Token> tokenize(std::string_view source, Runtime& runtime) {
  return Lexer(source, runtime).run();
}

}  // namespace quire::text::jinja

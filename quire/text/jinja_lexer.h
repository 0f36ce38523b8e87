#pragma once

#include <cstdint>
#include <string>
#include <string_view>
#include <vector>

#include "quire/text/jinja_value.h"

namespace quire::text::jinja {

enum class TokenKind : std::uint8_t {
  kData,
  kVariableBegin,
  kVariableEnd,
  kBlockBegin,
  kBlockEnd,
  kName,
  kInteger,
  kFloat,
  kString,
  kOperator,
  kEnd
};

struct Token {
  TokenKind kind;
  std::string text;  // a string's value, an operator's characters
  Place place;
};

/// Cuts a template's source into tokens, with whitespace control and the options trim_blocks and
/// lstrip_blocks on. The source is UTF-8. Throws FormatError with the place. Source:
/// jinja2/lexer.py (behaviour only).
std::vector<Token> tokenize(std::string_view source, Runtime& runtime);

}  // namespace quire::text::jinja

#pragma once

#include <cstddef>
#include <string_view>

namespace quire {

/// What stands at the beginning of a text: a whole character, or the maximal ill-formed part that
/// counts as one U+FFFD. Source: the Unicode Standard, table 3-7 and section 3.9 (surrogates,
/// overlong forms and > U+10FFFF are ill-formed).
struct Utf8Step {
  std::size_t bytes;  // 1 to 4; 0 only for an empty text
  bool well_formed;
  char32_t code_point;  // U+FFFD when ill-formed
};

/// The first step of `text`.
Utf8Step utf8_step(std::string_view text);

/// True when every byte belongs to a well-formed character.
bool is_utf8(std::string_view text);

}  // namespace quire

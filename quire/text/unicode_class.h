#pragma once

#include <cstddef>
#include <string>
#include <string_view>

namespace quire::text {

/// Character classes and case mappings as Python's str has them, which templates were written for
/// (of the Unicode version that utf8proc knows).
bool is_space(char32_t c);
bool is_printable(char32_t c);
bool is_letter(char32_t c);
bool is_cased(char32_t c);

enum class Case { kUpper, kLower, kTitle };

/// Appends character `i` of the text in another case: it may become several characters, and the
/// lower case of a capital sigma depends on its neighbours.
void append_in_case(std::string& out, std::u32string_view text, std::size_t i, Case to);

}  // namespace quire::text

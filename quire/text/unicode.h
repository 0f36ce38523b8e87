#pragma once

#include <cstddef>
#include <string>
#include <string_view>

namespace quire::text {

/// What stands for each maximal ill-formed part of a text: U+FFFD.
inline constexpr std::string_view kReplacement = "\xEF\xBF\xBD";

/// Appends the UTF-8 form of a Unicode scalar value.
void append_utf8(std::string& out, char32_t code_point);

/// The text with each maximal ill-formed part replaced by U+FFFD.
std::string to_utf8_lossy(std::string_view text);

/// The number of bytes at the end that begin a character without finishing it (0 to 3): more bytes
/// may complete it.
std::size_t unfinished_bytes(std::string_view text);

}  // namespace quire::text

#pragma once

#include <string>
#include <string_view>

namespace quire::text {

/// The bytes that a token of a byte-level vocabulary stands for: such vocabularies write each byte
/// as one visible character
/// ("Ġ" is the space). A token with any other character stands for its own text.
/// Source: GPT-2's `bytes_to_unicode`.
std::string bytes_of_token(std::string_view token);

/// The character that a byte-level vocabulary writes for a byte.
std::string token_of_byte(unsigned char byte);

}  // namespace quire::text

#include "quire/text/byte_alphabet.h"

#include <array>
#include <cstdint>

#include "quire/base/utf8.h"
#include "quire/text/unicode.h"

namespace quire::text {
namespace {

/// Printable Latin-1 characters stand for themselves, the other 68 bytes for U+0100 onwards, in
/// order.
constexpr bool stands_for_itself(unsigned byte) {
  return (byte >= 0x21 && byte <= 0x7E) || (byte >= 0xA1 && byte <= 0xAC) || byte >= 0xAE;
}

constexpr std::array<char16_t, 256> make_characters() {
  std::array<char16_t, 256> characters{};
  char16_t next = 0x100;
  for (unsigned byte = 0; byte < 256; ++byte) {
    characters[byte] = stands_for_itself(byte) ? static_cast<char16_t>(byte) : next++;
  }
  return characters;
}
constexpr std::array<char16_t, 256> kCharacters = make_characters();
constexpr char32_t kEnd = 0x100 + 68;

constexpr std::array<std::int16_t, kEnd> make_bytes() {
  std::array<std::int16_t, kEnd> bytes{};
  for (auto& byte : bytes) byte = -1;
  for (unsigned byte = 0; byte < 256; ++byte) {
    bytes[kCharacters[byte]] = static_cast<std::int16_t>(byte);
  }
  return bytes;
}
constexpr std::array<std::int16_t, kEnd> kBytes = make_bytes();

}  // namespace

std::string bytes_of_token(std::string_view token) {
  std::string out;
  out.reserve(token.size());
  for (std::string_view rest = token; !rest.empty();) {
    const Utf8Step step = utf8_step(rest);
    if (!step.well_formed || step.code_point >= kEnd || kBytes[step.code_point] < 0) {
      return std::string(token);
    }
    out += static_cast<char>(kBytes[step.code_point]);
    rest.remove_prefix(step.bytes);
  }
  return out;
}

std::string token_of_byte(unsigned char byte) {
  std::string out;
  append_utf8(out, kCharacters[byte]);
  return out;
}

}  // namespace quire::text

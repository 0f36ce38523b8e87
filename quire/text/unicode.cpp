#include "quire/text/unicode.h"

#include <algorithm>

#include "quire/base/utf8.h"

namespace quire::text {

void append_utf8(std::string& out, char32_t code_point) {
  const auto put = [&](char32_t byte) { out += static_cast<char>(byte); };
  const auto tail = [&](int shift) { put(0x80 | (code_point >> shift & 0x3F)); };
  if (code_point < 0x80) {
    put(code_point);
  } else if (code_point < 0x800) {
    put(0xC0 | code_point >> 6);
    tail(0);
  } else if (code_point < 0x10000) {
    put(0xE0 | code_point >> 12);
    tail(6);
    tail(0);
  } else {
    put(0xF0 | code_point >> 18);
    tail(12);
    tail(6);
    tail(0);
  }
}

std::string to_utf8_lossy(std::string_view text) {
  std::string out;
  out.reserve(text.size());
  while (!text.empty()) {
    const Utf8Step step = utf8_step(text);
    out += step.well_formed ? text.substr(0, step.bytes) : kReplacement;
    text.remove_prefix(step.bytes);
  }
  return out;
}

std::size_t unfinished_bytes(std::string_view text) {
  // A character has at most 4 bytes, so that an unfinished one has a lead byte among the last 3.
  const std::size_t longest = std::min<std::size_t>(3, text.size());
  for (std::size_t count = 1; count <= longest; ++count) {
    const std::string_view end = text.substr(text.size() - count);
    const auto lead = static_cast<unsigned char>(end[0]);
    if ((lead & 0xC0) == 0x80) continue;
    if (lead < 0xC2 || lead > 0xF4) return 0;
    const Utf8Step step = utf8_step(end);
    return !step.well_formed && step.bytes == count ? count : 0;
  }
  return 0;
}

}  // namespace quire::text

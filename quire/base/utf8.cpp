#include "quire/base/utf8.h"

namespace quire {
namespace {

constexpr char32_t kReplacement = 0xFFFD;

/// What a lead byte asks for: the length, and the range of the byte after it (the rest is
/// always 80..BF).
struct Lead {
  std::size_t bytes;
  unsigned low, high;
};

constexpr Lead lead_of(unsigned byte) {
  if (byte >= 0xC2 && byte <= 0xDF) return {2, 0x80, 0xBF};
  if (byte == 0xE0) return {3, 0xA0, 0xBF};
  if (byte == 0xED) return {3, 0x80, 0x9F};
  if (byte >= 0xE1 && byte <= 0xEF) return {3, 0x80, 0xBF};
  if (byte == 0xF0) return {4, 0x90, 0xBF};
  if (byte >= 0xF1 && byte <= 0xF3) return {4, 0x80, 0xBF};
  if (byte == 0xF4) return {4, 0x80, 0x8F};
  return {0, 0, 0};
}

}  // namespace

Utf8Step utf8_step(std::string_view text) {
  if (text.empty()) return {0, false, kReplacement};
  const auto byte_at = [&](std::size_t i) { return unsigned{static_cast<unsigned char>(text[i])}; };
  const unsigned first = byte_at(0);
  if (first < 0x80) return {1, true, first};
  const Lead lead = lead_of(first);
  if (lead.bytes == 0) return {1, false, kReplacement};
  char32_t code_point = first & (0x7Fu >> lead.bytes);
  for (std::size_t i = 1; i < lead.bytes; ++i) {
    const unsigned low = i == 1 ? lead.low : 0x80;
    const unsigned high = i == 1 ? lead.high : 0xBF;
    if (i >= text.size() || byte_at(i) < low || byte_at(i) > high) return {i, false, kReplacement};
    code_point = code_point << 6 | (byte_at(i) & 0x3F);
  }
  return {lead.bytes, true, code_point};
}

bool is_utf8(std::string_view text) {
  while (!text.empty()) {
    const Utf8Step step = utf8_step(text);
    if (!step.well_formed) return false;
    text.remove_prefix(step.bytes);
  }
  return true;
}

}  // namespace quire

#include "quire/base/utf8.h"

#include <gtest/gtest.h>

#include <string>
#include <vector>

namespace quire {
namespace {

std::string encode(char32_t c) {
  const auto byte = [](char32_t x) { return static_cast<char>(static_cast<unsigned char>(x)); };
  if (c < 0x80) return {byte(c)};
  if (c < 0x800) return {byte(0xC0 | c >> 6), byte(0x80 | (c & 63))};
  if (c < 0x10000) return {byte(0xE0 | c >> 12), byte(0x80 | (c >> 6 & 63)), byte(0x80 | (c & 63))};
  return {byte(0xF0 | c >> 18), byte(0x80 | (c >> 12 & 63)), byte(0x80 | (c >> 6 & 63)),
          byte(0x80 | (c & 63))};
}

TEST(Utf8, every_code_point_is_read_back_and_surrogates_are_not) {
  for (char32_t c = 0; c <= 0x10FFFF; ++c) {
    const std::string text = encode(c);
    const Utf8Step step = utf8_step(text);
    const bool surrogate = c >= 0xD800 && c <= 0xDFFF;
    ASSERT_EQ(step.well_formed, !surrogate) << static_cast<std::uint32_t>(c);
    if (!surrogate) {
      ASSERT_EQ(step.bytes, text.size());
      ASSERT_EQ(step.code_point, c);
    }
  }
}

/// The lengths of the steps through a text, ill-formed ones negative.
std::vector<int> steps(std::string_view text) {
  std::vector<int> out;
  while (!text.empty()) {
    const Utf8Step step = utf8_step(text);
    EXPECT_GE(step.bytes, 1u);
    out.push_back(step.well_formed ? static_cast<int>(step.bytes) : -static_cast<int>(step.bytes));
    text.remove_prefix(step.bytes);
  }
  return out;
}

TEST(Utf8, ill_formed_parts_are_maximal) {
  // The examples of the Unicode Standard, tables 3-8 to 3-11.
  EXPECT_EQ(steps("\xC0\xAF\xE0\x80\xBF\xF0\x81\x82\x41"),
            (std::vector<int>{-1, -1, -1, -1, -1, -1, -1, -1, 1}));
  EXPECT_EQ(steps("\xED\xA0\x80\xED\xBF\xBF\xED\xAF\x41"),
            (std::vector<int>{-1, -1, -1, -1, -1, -1, -1, -1, 1}));
  EXPECT_EQ(steps("\xF4\x91\x92\x93\xFF\x41\x80\xBF\x42"),
            (std::vector<int>{-1, -1, -1, -1, -1, 1, -1, -1, 1}));
  EXPECT_EQ(steps("\xE1\x80\xE2\xF0\x91\x92\xF1\xBF\x41"), (std::vector<int>{-2, -1, -3, -2, 1}));
}

TEST(Utf8, a_cut_character_is_ill_formed) {
  EXPECT_EQ(steps("a\xE2\x82"), (std::vector<int>{1, -2}));
  EXPECT_EQ(steps("\xF0\x9F\x98"), (std::vector<int>{-3}));
  EXPECT_TRUE(is_utf8("a\xE2\x82\xAC"));
  EXPECT_FALSE(is_utf8("a\xE2\x82"));
  EXPECT_TRUE(is_utf8(""));
  EXPECT_EQ(utf8_step("").bytes, 0u);
}

TEST(Utf8, a_nul_is_a_character) { EXPECT_TRUE(is_utf8(std::string_view("a\0b", 3))); }

}  // namespace
}  // namespace quire

#include "quire/text/unicode_class.h"

#include <utf8proc.h>

#include <algorithm>
#include <iterator>

#include "quire/text/unicode.h"

namespace quire::text {
namespace {

/// Characters whose upper case is longer than one character, with their upper and title case.
/// Source: the Unicode Character Database, SpecialCasing.txt.
struct SpecialCase {
  char32_t from;
  std::u16string_view upper, title;
};
constexpr SpecialCase kSpecialCases[] = {{0x00DF, u"\u0053\u0053", u"\u0053\u0073"},
                                         {0x0149, u"\u02BC\u004E", u"\u02BC\u004E"},
                                         {0x01F0, u"\u004A\u030C", u"\u004A\u030C"},
                                         {0x0390, u"\u0399\u0308\u0301", u"\u0399\u0308\u0301"},
                                         {0x03B0, u"\u03A5\u0308\u0301", u"\u03A5\u0308\u0301"},
                                         {0x0587, u"\u0535\u0552", u"\u0535\u0582"},
                                         {0x1E96, u"\u0048\u0331", u"\u0048\u0331"},
                                         {0x1E97, u"\u0054\u0308", u"\u0054\u0308"},
                                         {0x1E98, u"\u0057\u030A", u"\u0057\u030A"},
                                         {0x1E99, u"\u0059\u030A", u"\u0059\u030A"},
                                         {0x1E9A, u"\u0041\u02BE", u"\u0041\u02BE"},
                                         {0x1F50, u"\u03A5\u0313", u"\u03A5\u0313"},
                                         {0x1F52, u"\u03A5\u0313\u0300", u"\u03A5\u0313\u0300"},
                                         {0x1F54, u"\u03A5\u0313\u0301", u"\u03A5\u0313\u0301"},
                                         {0x1F56, u"\u03A5\u0313\u0342", u"\u03A5\u0313\u0342"},
                                         {0x1F80, u"\u1F08\u0399", u"\u1F88"},
                                         {0x1F81, u"\u1F09\u0399", u"\u1F89"},
                                         {0x1F82, u"\u1F0A\u0399", u"\u1F8A"},
                                         {0x1F83, u"\u1F0B\u0399", u"\u1F8B"},
                                         {0x1F84, u"\u1F0C\u0399", u"\u1F8C"},
                                         {0x1F85, u"\u1F0D\u0399", u"\u1F8D"},
                                         {0x1F86, u"\u1F0E\u0399", u"\u1F8E"},
                                         {0x1F87, u"\u1F0F\u0399", u"\u1F8F"},
                                         {0x1F88, u"\u1F08\u0399", u"\u1F88"},
                                         {0x1F89, u"\u1F09\u0399", u"\u1F89"},
                                         {0x1F8A, u"\u1F0A\u0399", u"\u1F8A"},
                                         {0x1F8B, u"\u1F0B\u0399", u"\u1F8B"},
                                         {0x1F8C, u"\u1F0C\u0399", u"\u1F8C"},
                                         {0x1F8D, u"\u1F0D\u0399", u"\u1F8D"},
                                         {0x1F8E, u"\u1F0E\u0399", u"\u1F8E"},
                                         {0x1F8F, u"\u1F0F\u0399", u"\u1F8F"},
                                         {0x1F90, u"\u1F28\u0399", u"\u1F98"},
                                         {0x1F91, u"\u1F29\u0399", u"\u1F99"},
                                         {0x1F92, u"\u1F2A\u0399", u"\u1F9A"},
                                         {0x1F93, u"\u1F2B\u0399", u"\u1F9B"},
                                         {0x1F94, u"\u1F2C\u0399", u"\u1F9C"},
                                         {0x1F95, u"\u1F2D\u0399", u"\u1F9D"},
                                         {0x1F96, u"\u1F2E\u0399", u"\u1F9E"},
                                         {0x1F97, u"\u1F2F\u0399", u"\u1F9F"},
                                         {0x1F98, u"\u1F28\u0399", u"\u1F98"},
                                         {0x1F99, u"\u1F29\u0399", u"\u1F99"},
                                         {0x1F9A, u"\u1F2A\u0399", u"\u1F9A"},
                                         {0x1F9B, u"\u1F2B\u0399", u"\u1F9B"},
                                         {0x1F9C, u"\u1F2C\u0399", u"\u1F9C"},
                                         {0x1F9D, u"\u1F2D\u0399", u"\u1F9D"},
                                         {0x1F9E, u"\u1F2E\u0399", u"\u1F9E"},
                                         {0x1F9F, u"\u1F2F\u0399", u"\u1F9F"},
                                         {0x1FA0, u"\u1F68\u0399", u"\u1FA8"},
                                         {0x1FA1, u"\u1F69\u0399", u"\u1FA9"},
                                         {0x1FA2, u"\u1F6A\u0399", u"\u1FAA"},
                                         {0x1FA3, u"\u1F6B\u0399", u"\u1FAB"},
                                         {0x1FA4, u"\u1F6C\u0399", u"\u1FAC"},
                                         {0x1FA5, u"\u1F6D\u0399", u"\u1FAD"},
                                         {0x1FA6, u"\u1F6E\u0399", u"\u1FAE"},
                                         {0x1FA7, u"\u1F6F\u0399", u"\u1FAF"},
                                         {0x1FA8, u"\u1F68\u0399", u"\u1FA8"},
                                         {0x1FA9, u"\u1F69\u0399", u"\u1FA9"},
                                         {0x1FAA, u"\u1F6A\u0399", u"\u1FAA"},
                                         {0x1FAB, u"\u1F6B\u0399", u"\u1FAB"},
                                         {0x1FAC, u"\u1F6C\u0399", u"\u1FAC"},
                                         {0x1FAD, u"\u1F6D\u0399", u"\u1FAD"},
                                         {0x1FAE, u"\u1F6E\u0399", u"\u1FAE"},
                                         {0x1FAF, u"\u1F6F\u0399", u"\u1FAF"},
                                         {0x1FB2, u"\u1FBA\u0399", u"\u1FBA\u0345"},
                                         {0x1FB3, u"\u0391\u0399", u"\u1FBC"},
                                         {0x1FB4, u"\u0386\u0399", u"\u0386\u0345"},
                                         {0x1FB6, u"\u0391\u0342", u"\u0391\u0342"},
                                         {0x1FB7, u"\u0391\u0342\u0399", u"\u0391\u0342\u0345"},
                                         {0x1FBC, u"\u0391\u0399", u"\u1FBC"},
                                         {0x1FC2, u"\u1FCA\u0399", u"\u1FCA\u0345"},
                                         {0x1FC3, u"\u0397\u0399", u"\u1FCC"},
                                         {0x1FC4, u"\u0389\u0399", u"\u0389\u0345"},
                                         {0x1FC6, u"\u0397\u0342", u"\u0397\u0342"},
                                         {0x1FC7, u"\u0397\u0342\u0399", u"\u0397\u0342\u0345"},
                                         {0x1FCC, u"\u0397\u0399", u"\u1FCC"},
                                         {0x1FD2, u"\u0399\u0308\u0300", u"\u0399\u0308\u0300"},
                                         {0x1FD3, u"\u0399\u0308\u0301", u"\u0399\u0308\u0301"},
                                         {0x1FD6, u"\u0399\u0342", u"\u0399\u0342"},
                                         {0x1FD7, u"\u0399\u0308\u0342", u"\u0399\u0308\u0342"},
                                         {0x1FE2, u"\u03A5\u0308\u0300", u"\u03A5\u0308\u0300"},
                                         {0x1FE3, u"\u03A5\u0308\u0301", u"\u03A5\u0308\u0301"},
                                         {0x1FE4, u"\u03A1\u0313", u"\u03A1\u0313"},
                                         {0x1FE6, u"\u03A5\u0342", u"\u03A5\u0342"},
                                         {0x1FE7, u"\u03A5\u0308\u0342", u"\u03A5\u0308\u0342"},
                                         {0x1FF2, u"\u1FFA\u0399", u"\u1FFA\u0345"},
                                         {0x1FF3, u"\u03A9\u0399", u"\u1FFC"},
                                         {0x1FF4, u"\u038F\u0399", u"\u038F\u0345"},
                                         {0x1FF6, u"\u03A9\u0342", u"\u03A9\u0342"},
                                         {0x1FF7, u"\u03A9\u0342\u0399", u"\u03A9\u0342\u0345"},
                                         {0x1FFC, u"\u03A9\u0399", u"\u1FFC"},
                                         {0xFB00, u"\u0046\u0046", u"\u0046\u0066"},
                                         {0xFB01, u"\u0046\u0049", u"\u0046\u0069"},
                                         {0xFB02, u"\u0046\u004C", u"\u0046\u006C"},
                                         {0xFB03, u"\u0046\u0046\u0049", u"\u0046\u0066\u0069"},
                                         {0xFB04, u"\u0046\u0046\u004C", u"\u0046\u0066\u006C"},
                                         {0xFB05, u"\u0053\u0054", u"\u0053\u0074"},
                                         {0xFB06, u"\u0053\u0054", u"\u0053\u0074"},
                                         {0xFB13, u"\u0544\u0546", u"\u0544\u0576"},
                                         {0xFB14, u"\u0544\u0535", u"\u0544\u0565"},
                                         {0xFB15, u"\u0544\u053B", u"\u0544\u056B"},
                                         {0xFB16, u"\u054E\u0546", u"\u054E\u0576"},
                                         {0xFB17, u"\u0544\u053D", u"\u0544\u056D"}};

struct Range {
  char32_t first, last;
};
/// Cased characters whose category is no case (Other_Lowercase and Other_Uppercase of the
/// database).
constexpr Range kOtherCased[] = {
    {0xAA, 0xAA},       {0xBA, 0xBA},       {0x2B0, 0x2B8},     {0x2C0, 0x2C1},
    {0x2E0, 0x2E4},     {0x345, 0x345},     {0x37A, 0x37A},     {0x1D2C, 0x1D6A},
    {0x1D78, 0x1D78},   {0x1D9B, 0x1DBF},   {0x2071, 0x2071},   {0x207F, 0x207F},
    {0x2090, 0x209C},   {0x2160, 0x217F},   {0x24B6, 0x24E9},   {0x2C7C, 0x2C7D},
    {0xA69C, 0xA69D},   {0xA770, 0xA770},   {0xA7F8, 0xA7F9},   {0xAB5C, 0xAB5F},
    {0x10780, 0x10780}, {0x10783, 0x10785}, {0x10787, 0x107B0}, {0x107B2, 0x107BA},
    {0x1F130, 0x1F149}, {0x1F150, 0x1F169}, {0x1F170, 0x1F189},
};

utf8proc_category_t category(char32_t c) {
  return utf8proc_category(static_cast<utf8proc_int32_t>(c));
}

/// Characters that the rule of the final sigma looks through.
bool is_case_ignorable(char32_t c) {
  constexpr std::u32string_view kPunctuation =
      U"'.:\u00B7\u0387\u055F\u05F4\u2018\u2019\u2024\u2027\uFE13\uFE52\uFE55\uFF07\uFF0E\uFF1A";
  if (kPunctuation.find(c) != std::u32string_view::npos) return true;
  switch (category(c)) {
    case UTF8PROC_CATEGORY_MN:
    case UTF8PROC_CATEGORY_ME:
    case UTF8PROC_CATEGORY_CF:
    case UTF8PROC_CATEGORY_LM:
    case UTF8PROC_CATEGORY_SK:
      return true;
    default:
      return false;
  }
}

bool is_final_sigma(std::u32string_view text, std::size_t i) {
  std::size_t before = i;
  while (before > 0 && is_case_ignorable(text[before - 1])) --before;
  if (before == 0 || !is_cased(text[before - 1])) return false;
  std::size_t after = i + 1;
  while (after < text.size() && is_case_ignorable(text[after])) ++after;
  return after == text.size() || !is_cased(text[after]);
}

}  // namespace

bool is_space(char32_t c) {
  return (c >= 0x09 && c <= 0x0D) || (c >= 0x1C && c <= 0x20) || c == 0x85 || c == 0xA0 ||
         c == 0x1680 || (c >= 0x2000 && c <= 0x200A) || c == 0x2028 || c == 0x2029 || c == 0x202F ||
         c == 0x205F || c == 0x3000;
}

bool is_printable(char32_t c) {
  const utf8proc_category_t kind = category(c);
  return c == U' ' || (kind != UTF8PROC_CATEGORY_CN && kind < UTF8PROC_CATEGORY_ZS);
}

bool is_letter(char32_t c) {
  const utf8proc_category_t kind = category(c);
  return kind >= UTF8PROC_CATEGORY_LU && kind <= UTF8PROC_CATEGORY_LO;
}

bool is_cased(char32_t c) {
  const utf8proc_category_t kind = category(c);
  if (kind >= UTF8PROC_CATEGORY_LU && kind <= UTF8PROC_CATEGORY_LT) return true;
  return std::any_of(std::begin(kOtherCased), std::end(kOtherCased),
                     [c](const Range& range) { return c >= range.first && c <= range.last; });
}

void append_in_case(std::string& out, std::u32string_view text, std::size_t i, Case to) {
  const char32_t c = text[i];
  const auto simple = static_cast<utf8proc_int32_t>(c);
  if (to == Case::kLower) {
    if (c == 0x130) {
      out += "i\u0307";
    } else if (c == 0x3A3 && is_final_sigma(text, i)) {
      out += "\u03C2";
    } else {
      append_utf8(out, static_cast<char32_t>(utf8proc_tolower(simple)));
    }
    return;
  }
  const auto* special =
      std::lower_bound(std::begin(kSpecialCases), std::end(kSpecialCases), c,
                       [](const SpecialCase& s, char32_t x) { return s.from < x; });
  if (special != std::end(kSpecialCases) && special->from == c) {
    for (const char16_t unit : to == Case::kUpper ? special->upper : special->title) {
      append_utf8(out, unit);
    }
    return;
  }
  append_utf8(out, static_cast<char32_t>(to == Case::kUpper ? utf8proc_toupper(simple)
                                                            : utf8proc_totitle(simple)));
}

}  // namespace quire::text

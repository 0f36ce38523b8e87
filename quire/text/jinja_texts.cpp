#include "quire/text/jinja_texts.h"

#include <algorithm>

#include "quire/base/utf8.h"

namespace quire::text::jinja {
namespace {

bool is_stripped(const OriginText* characters, std::string_view character) {
  if (characters == nullptr) return is_space(utf8_step(character).code_point);
  return characters->text().find(character) != std::string::npos;
}

bool is_line_end(char32_t c) {
  return (c >= 0x0A && c <= 0x0D) || (c >= 0x1C && c <= 0x1E) || c == 0x85 || c == 0x2028 ||
         c == 0x2029;
}

std::size_t character_before(std::string_view text, std::size_t end) {
  --end;
  while (end > 0 && (static_cast<unsigned char>(text[end]) & 0xC0) == 0x80) --end;
  return end;
}

bool space_at(std::string_view text, std::size_t at) {
  return is_space(utf8_step(text.substr(at)).code_point);
}

/// The words between runs of white space; after `most` cuts the rest is one.
std::vector<OriginText> split_words(const OriginText& text, std::int64_t most) {
  std::vector<OriginText> parts;
  const std::string_view all = text.text();
  std::size_t at = 0;
  while (true) {
    while (at < all.size() && space_at(all, at)) at += character_at(all, at).size();
    if (at == all.size()) return parts;
    if (most >= 0 && static_cast<std::int64_t>(parts.size()) == most) {
      parts.push_back(text.slice(at, text.size()));
      return parts;
    }
    const std::size_t begin = at;
    while (at < all.size() && !space_at(all, at)) at += character_at(all, at).size();
    parts.push_back(text.slice(begin, at));
  }
}

}  // namespace

OriginText strip(const OriginText& text, Side side, const OriginText* characters) {
  const std::string_view all = text.text();
  std::size_t begin = 0, end = all.size();
  while (side != Side::kRight && begin < end) {
    const std::string_view first = character_at(all, begin);
    if (!is_stripped(characters, first)) break;
    begin += first.size();
  }
  while (side != Side::kLeft && end > begin) {
    const std::size_t last = character_before(all, end);
    if (!is_stripped(characters, all.substr(last, end - last))) break;
    end = last;
  }
  return text.slice(begin, end);
}

std::vector<OriginText> split(Runtime& runtime, const OriginText& text, const OriginText* separator,
                              std::int64_t most) {
  runtime.charge_bytes(text.size());
  if (separator == nullptr) return split_words(text, most);
  if (separator->empty()) runtime.fail("an empty separator");
  std::vector<OriginText> parts;
  std::size_t begin = 0;
  while (most < 0 || static_cast<std::int64_t>(parts.size()) < most) {
    const std::size_t found = text.text().find(separator->text(), begin);
    if (found == std::string::npos) break;
    runtime.charge(1);
    parts.push_back(text.slice(begin, found));
    begin = found + separator->size();
  }
  parts.push_back(text.slice(begin, text.size()));
  return parts;
}

std::vector<OriginText> split_right(Runtime& runtime, const OriginText& text,
                                    const OriginText* separator, std::int64_t most) {
  if (most < 0) return split(runtime, text, separator, most);
  if (separator == nullptr) runtime.fail("rsplit with a limit needs a separator here");
  if (separator->empty()) runtime.fail("an empty separator");
  runtime.charge_bytes(text.size());
  std::vector<OriginText> parts;
  std::size_t end = text.size();
  while (static_cast<std::int64_t>(parts.size()) < most && end >= separator->size()) {
    const std::size_t found = text.text().rfind(separator->text(), end - separator->size());
    if (found == std::string::npos) break;
    runtime.charge(1);
    parts.push_back(text.slice(found + separator->size(), end));
    end = found;
  }
  parts.push_back(text.slice(0, end));
  std::reverse(parts.begin(), parts.end());
  return parts;
}

std::vector<OriginText> split_lines(Runtime& runtime, const OriginText& text) {
  runtime.charge_bytes(text.size());
  const std::string_view all = text.text();
  std::vector<OriginText> lines;
  std::size_t begin = 0;
  for (std::size_t at = 0; at < all.size();) {
    const Utf8Step step = utf8_step(all.substr(at));
    if (!is_line_end(step.code_point)) {
      at += step.bytes;
      continue;
    }
    lines.push_back(text.slice(begin, at));
    at += step.code_point == U'\r' && all.substr(at, 2) == "\r\n" ? 2 : step.bytes;
    begin = at;
  }
  if (begin < all.size()) lines.push_back(text.slice(begin, all.size()));
  return lines;
}

OriginText replace(Runtime& runtime, const OriginText& text, const OriginText& from,
                   const OriginText& to, std::int64_t most) {
  OriginText out;
  std::size_t begin = 0, search = 0;
  for (std::int64_t done = 0; most < 0 || done < most; ++done) {
    const std::size_t found = text.text().find(from.text(), search);
    if (found == std::string::npos) break;
    runtime.charge(1);
    runtime.append(out, text, begin, found);
    runtime.append(out, to);
    begin = found + from.size();
    search = begin;
    if (from.empty()) {  // matches before every character and at the end
      if (found == text.size()) break;
      search = found + character_at(text.text(), found).size();
    }
  }
  runtime.append(out, text, begin, text.size());
  return out;
}

OriginText join(Runtime& runtime, const OriginText& separator,
                const std::vector<OriginText>& parts) {
  OriginText out;
  for (std::size_t i = 0; i < parts.size(); ++i) {
    runtime.charge(1);
    if (i > 0) runtime.append(out, separator);
    runtime.append(out, parts[i]);
  }
  return out;
}

OriginText indent_lines(Runtime& runtime, OriginText text, const OriginText& margin, bool first_too,
                        bool blank_too) {
  text.append("\n", Origin::kTemplate);  // a newline at the end then makes an empty last line
  const std::vector<OriginText> lines = split_lines(runtime, text);
  OriginText out;
  for (std::size_t i = 0; i < lines.size(); ++i) {
    runtime.charge(1);
    if (i > 0) runtime.append(out, "\n");
    if (i == 0 ? first_too : blank_too || !lines[i].empty()) runtime.append(out, margin);
    runtime.append(out, lines[i]);
  }
  return out;
}

OriginText in_case(Runtime& runtime, const OriginText& text, CaseStyle style) {
  runtime.charge_bytes(text.size());
  std::u32string characters;
  std::vector<Origin> origins;
  for (std::size_t at = 0; at < text.size();) {
    const Utf8Step step = utf8_step(std::string_view(text.text()).substr(at));
    characters += step.code_point;
    origins.push_back(text.origin_at(at));
    at += step.bytes;
  }
  OriginText out;
  bool inside = false;  // of a word
  for (std::size_t i = 0; i < characters.size(); ++i) {
    const char32_t c = characters[i];
    Case to = style == CaseStyle::kUpper ? Case::kUpper : Case::kLower;
    if (style == CaseStyle::kCapitalize || style == CaseStyle::kTitle) {
      if (!inside) to = Case::kTitle;
      inside = style == CaseStyle::kCapitalize || is_cased(c);
    } else if (style == CaseStyle::kJinjaTitle) {
      const bool between =
          is_space(c) || c == U'-' || c == U'(' || c == U'{' || c == U'[' || c == U'<';
      if (!inside) to = Case::kUpper;
      inside = !between;
    }
    std::string changed;
    append_in_case(changed, characters, i, to);
    runtime.append(out, changed, origins[i]);
  }
  return out;
}

}  // namespace quire::text::jinja

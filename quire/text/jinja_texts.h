#pragma once

#include <cstdint>
#include <string_view>
#include <vector>

#include "quire/text/jinja_value.h"
#include "quire/text/unicode_class.h"

namespace quire::text::jinja {

// Python's string methods on texts that keep their origins.

enum class Side { kLeft, kRight, kBoth };

/// Without the characters of `characters` at its sides; null: white space.
OriginText strip(const OriginText& text, Side side, const OriginText* characters);
/// The parts between separators; null: runs of white space. `most` < 0: no limit on the number of
/// cuts.
std::vector<OriginText> split(Runtime& runtime, const OriginText& text, const OriginText* separator,
                              std::int64_t most);
/// The same, cutting from the right.
std::vector<OriginText> split_right(Runtime& runtime, const OriginText& text,
                                    const OriginText* separator, std::int64_t most);
std::vector<OriginText> split_lines(Runtime& runtime, const OriginText& text);
OriginText replace(Runtime& runtime, const OriginText& text, const OriginText& from,
                   const OriginText& to, std::int64_t most);
OriginText join(Runtime& runtime, const OriginText& separator,
                const std::vector<OriginText>& parts);
/// Each line with a margin before it, the first and the empty ones only if wanted.
OriginText indent_lines(Runtime& runtime, OriginText text, const OriginText& margin, bool first_too,
                        bool blank_too);

enum class CaseStyle { kUpper, kLower, kTitle, kCapitalize, kJinjaTitle };
OriginText in_case(Runtime& runtime, const OriginText& text, CaseStyle style);

}  // namespace quire::text::jinja

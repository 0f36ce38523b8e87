#include <algorithm>
#include <array>
#include <charconv>
#include <cmath>

#include "quire/base/error.h"
#include "quire/base/utf8.h"
#include "quire/text/jinja_value.h"
#include "quire/text/unicode_class.h"

namespace quire::text::jinja {
namespace {

std::string hex(char32_t code_point, int digits) {
  std::string out;
  for (int shift = 4 * (digits - 1); shift >= 0; shift -= 4) {
    out += "0123456789abcdef"[code_point >> shift & 0xF];
  }
  return out;
}

/// Calls f(bytes, code_point, origin) for each character.
template <class F>
void for_each_character(const OriginText& text, F f) {
  std::size_t run = 0;
  for (std::size_t at = 0; at < text.size();) {
    const Utf8Step step = utf8_step(std::string_view(text.text()).substr(at));
    while (text.runs()[run].end <= at) ++run;
    f(std::string_view(text.text()).substr(at, step.bytes), step.code_point,
      text.runs()[run].origin);
    at += step.bytes;
  }
}

void append_quoted(Runtime& runtime, OriginText& out, const OriginText& text) {
  const bool has_single = text.text().find('\'') != std::string::npos;
  const bool has_double = text.text().find('"') != std::string::npos;
  const char quote = has_single && !has_double ? '"' : '\'';
  runtime.append(out, std::string_view(&quote, 1));
  for_each_character(text, [&](std::string_view bytes, char32_t c, Origin origin) {
    std::string escaped;
    if (c == U'\n')
      escaped = "\\n";
    else if (c == U'\r')
      escaped = "\\r";
    else if (c == U'\t')
      escaped = "\\t";
    else if (c == U'\\' || c == static_cast<char32_t>(quote))
      escaped = concat("\\", bytes);
    else if (is_printable(c))
      escaped = bytes;
    else if (c < 0x100)
      escaped = concat("\\x", hex(c, 2));
    else if (c < 0x10000)
      escaped = concat("\\u", hex(c, 4));
    else
      escaped = concat("\\U", hex(c, 8));
    runtime.append(out, escaped, origin);
  });
  runtime.append(out, std::string_view(&quote, 1));
}

class JsonWriter {
 public:
  JsonWriter(Runtime& runtime, const JsonStyle& style) : runtime_(runtime), style_(style) {}

  void write(const Value& value) {
    runtime_.charge(1);
    if (const OriginText* text = as_text(value)) {
      write_string(*text);
    } else if (const List* list = as_list(value)) {
      begin('[');
      for (const Value& item : list->items) {
        next(&item == list->items.data());
        write(item);
      }
      end(']', list->items.empty());
    } else if (const Dict* dict = as_dict(value)) {
      write_dict(*dict);
    } else {
      runtime_.append(out, scalar(value));
    }
  }

  OriginText out;

 private:
  void begin(char bracket) {
    runtime_.append(out, std::string_view(&bracket, 1));
    ++depth_;
  }
  void end(char bracket, bool empty) {
    --depth_;
    if (!empty) newline();
    runtime_.append(out, std::string_view(&bracket, 1));
  }
  void next(bool first) {
    if (!first) runtime_.append(out, style_.item_separator);
    newline();
  }
  void newline() {
    if (style_.indent < 0) return;
    runtime_.charge_bytes(static_cast<std::size_t>(style_.indent));
    runtime_.append(
        out, concat("\n", std::string(static_cast<std::size_t>(style_.indent * depth_), ' ')));
  }

  void write_dict(const Dict& dict) {
    auto items = dict.items;
    if (style_.sort_keys) {
      std::stable_sort(items.begin(), items.end(), [&](const auto& a, const auto& b) {
        return compare(runtime_, a.first, b.first) < 0;
      });
    }
    begin('{');
    for (const auto& item : items) {
      next(&item == items.data());
      if (const OriginText* key = as_text(item.first)) {
        write_string(*key);
      } else {
        runtime_.append(out, concat("\"", scalar(item.first), "\""));
      }
      runtime_.append(out, style_.key_separator);
      write(item.second);
    }
    end('}', items.empty());
  }

  std::string scalar(const Value& value) {
    if (is_none(value)) return "null";
    if (const auto* boolean = get<bool>(value)) return *boolean ? "true" : "false";
    if (const auto* integer = get<std::int64_t>(value)) return std::to_string(*integer);
    if (const auto* number = get<double>(value)) {
      if (std::isnan(*number)) return "NaN";
      if (std::isinf(*number)) return *number > 0 ? "Infinity" : "-Infinity";
      return float_repr(*number);
    }
    runtime_.fail(concat(type_name(value), " has no JSON form"));
  }

  void write_string(const OriginText& text) {
    runtime_.append(out, "\"");
    for_each_character(text, [&](std::string_view bytes, char32_t c, Origin origin) {
      constexpr std::string_view kShort = "\"\\\n\r\t\b\f", kLetter = "\"\\nrtbf";
      const std::size_t at = bytes.size() == 1 ? kShort.find(bytes[0]) : std::string_view::npos;
      if (at != std::string_view::npos) {
        runtime_.append(out, concat("\\", kLetter[at]), origin);
      } else if (c < 0x20 || (style_.ensure_ascii && c > 0x7E && c < 0x10000)) {
        runtime_.append(out, concat("\\u", hex(c, 4)), origin);
      } else if (style_.ensure_ascii && c >= 0x10000) {
        const char32_t rest = c - 0x10000;
        runtime_.append(
            out,
            concat("\\u", hex(0xD800 + (rest >> 10), 4), "\\u", hex(0xDC00 + (rest & 0x3FF), 4)),
            origin);
      } else {
        runtime_.append(out, bytes, origin);
      }
    });
    runtime_.append(out, "\"");
  }

  Runtime& runtime_;
  const JsonStyle& style_;
  std::int64_t depth_ = 0;
};

}  // namespace

std::string float_repr(double value) {
  if (std::isnan(value)) return "nan";
  if (std::isinf(value)) return value > 0 ? "inf" : "-inf";
  std::array<char, 400> buffer;
  const double magnitude = std::abs(value);
  // Python leaves positional notation below 1e-4 and from 1e16.
  const bool positional = magnitude == 0 || (magnitude >= 1e-4 && magnitude < 1e16);
  const auto result =
      std::to_chars(buffer.data(), buffer.data() + buffer.size(), value,
                    positional ? std::chars_format::fixed : std::chars_format::scientific);
  std::string out(buffer.data(), result.ptr);
  if (positional && out.find('.') == std::string::npos) out += ".0";
  return out;
}

void append_repr(Runtime& runtime, OriginText& out, const Value& value) {
  runtime.charge(1);
  if (const OriginText* text = as_text(value)) return append_quoted(runtime, out, *text);
  if (const List* list = as_list(value)) {
    const bool tuple = list->kind == Sequence::kTuple;
    runtime.append(out, tuple ? "(" : "[");
    for (std::size_t i = 0; i < list->items.size(); ++i) {
      if (i > 0) runtime.append(out, ", ");
      append_repr(runtime, out, list->items[i]);
    }
    if (tuple && list->items.size() == 1) runtime.append(out, ",");
    return runtime.append(out, tuple ? ")" : "]");
  }
  if (const Dict* dict = as_dict(value)) {
    runtime.append(out, "{");
    for (std::size_t i = 0; i < dict->items.size(); ++i) {
      if (i > 0) runtime.append(out, ", ");
      append_repr(runtime, out, dict->items[i].first);
      runtime.append(out, ": ");
      append_repr(runtime, out, dict->items[i].second);
    }
    return runtime.append(out, "}");
  }
  if (is_undefined(value)) return runtime.append(out, "Undefined");
  append_str(runtime, out, value);
}

void append_str(Runtime& runtime, OriginText& out, const Value& value) {
  if (const OriginText* text = as_text(value)) return runtime.append(out, *text);
  if (is_undefined(value)) return;
  if (is_none(value)) return runtime.append(out, "None");
  if (const auto* boolean = get<bool>(value))
    return runtime.append(out, *boolean ? "True" : "False");
  if (const auto* integer = get<std::int64_t>(value)) {
    return runtime.append(out, std::to_string(*integer));
  }
  if (const auto* number = get<double>(value)) return runtime.append(out, float_repr(*number));
  if (as_list(value) != nullptr || as_dict(value) != nullptr)
    return append_repr(runtime, out, value);
  runtime.fail(concat(type_name(value), " has no text form"));
}

OriginText to_str(Runtime& runtime, const Value& value) {
  OriginText out;
  append_str(runtime, out, value);
  return out;
}

OriginText to_json(Runtime& runtime, const Value& value, const JsonStyle& style) {
  JsonWriter writer(runtime, style);
  writer.write(value);
  return std::move(writer.out);
}

}  // namespace quire::text::jinja

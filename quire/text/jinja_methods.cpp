#include <algorithm>

#include "quire/base/error.h"
#include "quire/base/utf8.h"
#include "quire/text/jinja_builtins.h"
#include "quire/text/jinja_texts.h"

namespace quire::text::jinja {
namespace {

const OriginText* optional_text(Runtime& runtime, Arguments& arguments, std::size_t index,
                                std::string_view name) {
  const Value* value = arguments.find(index, name);
  if (value == nullptr || is_none(*value)) return nullptr;
  if (as_text(*value) == nullptr) {
    runtime.fail(concat("\"", name, "\" must be a string, not ", type_name(*value)));
  }
  return as_text(*value);
}

Value texts(Runtime& runtime, std::vector<OriginText> parts) {
  std::vector<Value> items;
  items.reserve(parts.size());
  for (OriginText& part : parts) items.push_back(runtime.text(std::move(part)));
  return runtime.list(std::move(items));
}

/// startswith and endswith: one string, or any of a tuple.
bool has_edge(Runtime& runtime, const OriginText& text, Arguments& arguments, Side side) {
  const Value& edges = arguments.need(0, "edge");
  const auto one = [&](const Value& value) {
    const OriginText* edge = as_text(value);
    if (edge == nullptr)
      runtime.fail(concat("expected a string or a tuple of strings, not ", type_name(value)));
    if (edge->size() > text.size()) return false;
    const std::size_t at = side == Side::kLeft ? 0 : text.size() - edge->size();
    return text.text().compare(at, edge->size(), edge->text()) == 0;
  };
  const List* list = as_list(edges);
  if (list == nullptr || list->kind != Sequence::kTuple) return one(edges);
  return std::any_of(list->items.begin(), list->items.end(), one);
}

Value position(Runtime& runtime, const OriginText& text, Arguments& arguments,
               std::string_view name) {
  const std::string& part = arguments.text(0, "part").text();
  runtime.charge_bytes(text.size());
  const std::size_t at = name == "rfind" ? text.text().rfind(part) : text.text().find(part);
  if (at == std::string::npos) {
    if (name == "index") runtime.fail("the substring is not there");
    return std::int64_t{-1};
  }
  return static_cast<std::int64_t>(count_characters(std::string_view(text.text()).substr(0, at)));
}

std::int64_t occurrences(Runtime& runtime, const OriginText& text, const OriginText& part) {
  runtime.charge_bytes(text.size());
  if (part.empty()) return static_cast<std::int64_t>(count_characters(text.text())) + 1;
  std::int64_t count = 0;
  for (std::size_t at = text.text().find(part.text()); at != std::string::npos;
       at = text.text().find(part.text(), at + part.size())) {
    ++count;
  }
  return count;
}

/// isdigit, isspace, isupper, islower. Digits beyond ASCII need tables that templates do not.
bool has_class(Runtime& runtime, const OriginText& text, std::string_view name) {
  runtime.charge_bytes(text.size());
  bool cased = false;
  for (std::size_t at = 0; at < text.size();) {
    const Utf8Step step = utf8_step(std::string_view(text.text()).substr(at));
    const char32_t c = step.code_point;
    at += step.bytes;
    if (name == "isspace") {
      if (!is_space(c)) return false;
      continue;
    }
    if (c >= 0x80) runtime.fail(concat("\"", name, "\" beyond ASCII is not supported"));
    const bool upper = c >= U'A' && c <= U'Z', lower = c >= U'a' && c <= U'z';
    if (name == "isdigit" && (c < U'0' || c > U'9')) return false;
    if ((name == "isupper" && lower) || (name == "islower" && upper)) return false;
    cased = cased || upper || lower;
  }
  return name == "isupper" || name == "islower" ? cased : !text.empty();
}

Value text_method(Runtime& runtime, const OriginText& text, std::string_view name,
                  Arguments& arguments) {
  if (name == "strip" || name == "lstrip" || name == "rstrip") {
    runtime.charge_bytes(text.size());
    const Side side = name == "strip" ? Side::kBoth : name == "lstrip" ? Side::kLeft : Side::kRight;
    return runtime.text(strip(text, side, optional_text(runtime, arguments, 0, "chars")));
  }
  if (name == "split" || name == "rsplit") {
    const OriginText* separator = optional_text(runtime, arguments, 0, "sep");
    const std::int64_t most = arguments.integer(1, "maxsplit", -1);
    return texts(runtime, name == "split" ? split(runtime, text, separator, most)
                                          : split_right(runtime, text, separator, most));
  }
  if (name == "splitlines") return texts(runtime, split_lines(runtime, text));
  if (name == "startswith") return has_edge(runtime, text, arguments, Side::kLeft);
  if (name == "endswith") return has_edge(runtime, text, arguments, Side::kRight);
  if (name == "upper") return runtime.text(in_case(runtime, text, CaseStyle::kUpper));
  if (name == "lower") return runtime.text(in_case(runtime, text, CaseStyle::kLower));
  if (name == "title") return runtime.text(in_case(runtime, text, CaseStyle::kTitle));
  if (name == "capitalize") return runtime.text(in_case(runtime, text, CaseStyle::kCapitalize));
  if (name == "replace") {
    const OriginText &from = arguments.text(0, "old"), &to = arguments.text(1, "new");
    return runtime.text(replace(runtime, text, from, to, arguments.integer(2, "count", -1)));
  }
  if (name == "find" || name == "rfind" || name == "index")
    return position(runtime, text, arguments, name);
  if (name == "count") return occurrences(runtime, text, arguments.text(0, "part"));
  if (name == "removeprefix" || name == "removesuffix") {
    const bool prefix = name == "removeprefix";
    const std::size_t cut = arguments.text(0, "edge").size();
    if (!has_edge(runtime, text, arguments, prefix ? Side::kLeft : Side::kRight))
      return runtime.text(text);
    return runtime.text(prefix ? text.slice(cut, text.size()) : text.slice(0, text.size() - cut));
  }
  if (name == "join") {
    std::vector<OriginText> parts;
    const ListPtr elements = iterate(runtime, arguments.need(0, "iterable"));
    for (const Value& item : elements->items) {
      if (as_text(item) == nullptr)
        runtime.fail(concat("join takes strings, not ", type_name(item)));
      parts.push_back(*as_text(item));
    }
    return runtime.text(join(runtime, text, parts));
  }
  return has_class(runtime, text, name);
}

Value list_method(Runtime& runtime, const List& list, std::string_view name, Arguments& arguments) {
  const Value& wanted = arguments.need(0, "value");
  std::int64_t count = 0;
  for (std::size_t i = 0; i < list.items.size(); ++i) {
    if (!equal(runtime, list.items[i], wanted)) continue;
    if (name == "index") return static_cast<std::int64_t>(i);
    ++count;
  }
  if (name == "index") runtime.fail("the value is not in the list");
  return count;
}

Value dict_method(Runtime& runtime, const Dict& dict, std::string_view name, Arguments& arguments) {
  if (name == "get") {
    const Value& key = arguments.need(0, "key");
    const Value* otherwise = arguments.find(1, "default");
    const Value* found = find(runtime, dict, key);
    return found != nullptr ? *found : otherwise != nullptr ? *otherwise : Value(None{});
  }
  std::vector<Value> items;
  for (const auto& [key, value] : dict.items) {
    if (name == "items") {
      items.push_back(runtime.list({key, value}, Sequence::kTuple));
    } else {
      items.push_back(name == "keys" ? key : value);
    }
  }
  return runtime.list(std::move(items));
}

}  // namespace

Value call_method(Runtime& runtime, const Callable& callable, Arguments& arguments) {
  const auto call = [&]() -> Value {
    if (const OriginText* text = as_text(callable.self)) {
      return text_method(runtime, *text, callable.name, arguments);
    }
    if (const List* list = as_list(callable.self)) {
      return list_method(runtime, *list, callable.name, arguments);
    }
    if (const Dict* dict = as_dict(callable.self)) {
      return dict_method(runtime, *dict, callable.name, arguments);
    }
    const Loop& loop = **get<std::shared_ptr<const Loop>>(callable.self);  // cycle
    arguments.use_all();
    if (arguments.positional.empty()) runtime.fail("loop.cycle without values");
    return arguments.positional[loop.index % arguments.positional.size()];
  };
  Value result = call();
  arguments.finish();
  return result;
}

}  // namespace quire::text::jinja

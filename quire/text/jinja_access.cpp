#include <algorithm>
#include <charconv>

#include "quire/base/error.h"
#include "quire/text/jinja_builtins.h"

namespace quire::text::jinja {
namespace {

template <std::size_t N>
bool is_one_of(const std::string_view (&names)[N], std::string_view name) {
  return std::find(std::begin(names), std::end(names), name) != std::end(names);
}

constexpr std::string_view kTextMethods[] = {
    "strip",        "lstrip",       "rstrip",  "split",   "rsplit",  "splitlines",
    "startswith",   "endswith",     "upper",   "lower",   "title",   "capitalize",
    "replace",      "find",         "rfind",   "index",   "count",   "join",
    "removeprefix", "removesuffix", "isdigit", "isspace", "isupper", "islower"};
constexpr std::string_view kOtherTextMethods[] = {
    "casefold",    "center",     "encode",   "expandtabs", "format",       "format_map",
    "isalnum",     "isalpha",    "isascii",  "isdecimal",  "isidentifier", "isnumeric",
    "isprintable", "istitle",    "ljust",    "maketrans",  "partition",    "rindex",
    "rjust",       "rpartition", "swapcase", "translate",  "zfill"};
constexpr std::string_view kListMethods[] = {"index", "count"};
constexpr std::string_view kOtherListMethods[] = {"append", "clear",  "copy",    "extend", "insert",
                                                  "pop",    "remove", "reverse", "sort"};
constexpr std::string_view kDictMethods[] = {"items", "keys", "values", "get"};
constexpr std::string_view kOtherDictMethods[] = {"clear",   "copy",       "fromkeys", "pop",
                                                  "popitem", "setdefault", "update"};

Value method(const Value& object, std::string_view name) {
  return std::make_shared<const Callable>(Callable{std::string(name), object});
}

[[noreturn]] void refuse_method(Runtime& runtime, const Value& object, std::string_view name) {
  runtime.fail(concat("the method \"", name, "\" of ", type_name(object), " is not supported"));
}

Value loop_attribute(Runtime& runtime, const Value& object, std::string_view name) {
  const Loop& loop = **get<std::shared_ptr<const Loop>>(object);
  const std::size_t count = loop.items->items.size();
  const auto number = [](std::size_t n) { return static_cast<std::int64_t>(n); };
  const auto item = [&](std::size_t at, std::string_view why) {
    return at < count ? loop.items->items[at] : undefined(std::string(why));
  };
  if (name == "index") return number(loop.index + 1);
  if (name == "index0") return number(loop.index);
  if (name == "revindex") return number(count - loop.index);
  if (name == "revindex0") return number(count - loop.index - 1);
  if (name == "first") return loop.index == 0;
  if (name == "last") return loop.index + 1 == count;
  if (name == "length") return number(count);
  if (name == "previtem") return item(loop.index - 1, "there is no previous item");
  if (name == "nextitem") return item(loop.index + 1, "there is no next item");
  if (name == "depth") return std::int64_t{1};
  if (name == "depth0") return std::int64_t{0};
  if (name == "cycle") return method(object, name);
  if (name == "changed") runtime.fail("loop.changed is not supported");
  return undefined(concat("a loop has no attribute '", name, "'"));
}

/// Where a Python slice begins and ends: positions clipped to the sequence, as `slice.indices` has
/// it.
struct Range {
  std::int64_t begin, end, step;
};

Range clip(Runtime& runtime, std::int64_t count, const Value* begin, const Value* end,
           const Value* step) {
  const auto given = [&](const Value* value, std::int64_t& out) {
    if (value == nullptr || is_none(*value)) return false;
    if (!as_integer(*value, out))
      runtime.fail(concat("a slice takes integers, not ", type_name(*value)));
    return true;
  };
  Range range{0, 0, 1};
  if (given(step, range.step) && range.step == 0) runtime.fail("a slice with step 0");
  const bool back = range.step < 0;
  const std::int64_t low = back ? -1 : 0, high = back ? count - 1 : count;
  const auto place = [&](const Value* value, std::int64_t otherwise) {
    std::int64_t at = 0;
    if (!given(value, at)) return otherwise;
    if (at < 0) at = at < -count ? low : at + count;
    return std::clamp(at, low, high);
  };
  range.begin = place(begin, back ? high : low);
  range.end = place(end, back ? low : high);
  return range;
}

Value slice_text(Runtime& runtime, const OriginText& text, const Value* begin, const Value* end,
                 const Value* step) {
  runtime.charge_bytes(text.size());
  const bool plain = step == nullptr || is_none(*step);
  const auto count = static_cast<std::int64_t>(count_characters(text.text()));
  const Range range = clip(runtime, count, begin, end, step);
  if (plain) {
    std::size_t at = 0, from = 0;
    for (std::int64_t i = 0; i < std::max(range.begin, range.end); ++i) {
      if (i == range.begin) from = at;
      at += character_at(text.text(), at).size();
    }
    return runtime.text(range.begin < range.end ? text.slice(from, at) : OriginText());
  }
  runtime.charge_items(text.size());
  std::vector<std::size_t> starts;
  for (std::size_t at = 0; at < text.size(); at += character_at(text.text(), at).size())
    starts.push_back(at);
  OriginText out;
  for (std::int64_t i = range.begin; range.step > 0 ? i < range.end : i > range.end;
       i += range.step) {
    const std::size_t at = starts[static_cast<std::size_t>(i)];
    runtime.append(out, text, at, at + character_at(text.text(), at).size());
    if (range.step > count || range.step < -count) break;
  }
  return runtime.text(std::move(out));
}

}  // namespace

Value get_attribute(Runtime& runtime, const Value& object, std::string_view name) {
  if (const auto* missing = get<Undefined>(object)) runtime.fail(*missing->why);
  if (as_text(object) != nullptr) {
    if (is_one_of(kTextMethods, name)) return method(object, name);
    if (is_one_of(kOtherTextMethods, name)) refuse_method(runtime, object, name);
  } else if (as_list(object) != nullptr) {
    if (is_one_of(kListMethods, name)) return method(object, name);
    if (is_one_of(kOtherListMethods, name)) refuse_method(runtime, object, name);
  } else if (const Dict* dict = as_dict(object)) {
    if (is_one_of(kDictMethods, name)) return method(object, name);
    if (is_one_of(kOtherDictMethods, name)) refuse_method(runtime, object, name);
    if (const Value* found = find(runtime, *dict, name)) return *found;
  } else if (const auto* space = get<Namespace*>(object)) {
    runtime.charge_items((*space)->items.size());
    for (const auto& [key, value] : (*space)->items) {
      if (key == name) return value;
    }
  } else if (get<std::shared_ptr<const Loop>>(object) != nullptr) {
    return loop_attribute(runtime, object, name);
  } else if (get<std::shared_ptr<const Callable>>(object) != nullptr) {
    runtime.fail(concat("the attribute \"", name, "\" of a function is not supported"));
  }
  return undefined(
      concat("'", name, "' is undefined: ", type_name(object), " has no such attribute"));
}

Value get_item(Runtime& runtime, const Value& object, const Value& key) {
  if (const auto* missing = get<Undefined>(object)) runtime.fail(*missing->why);
  if (const auto* missing = get<Undefined>(key)) runtime.fail(*missing->why);
  const Dict* dict = as_dict(object);
  if (dict != nullptr && as_list(key) == nullptr && as_dict(key) == nullptr) {
    if (const Value* found = find(runtime, *dict, key)) return *found;
  }
  if (const OriginText* name = as_text(key)) return get_attribute(runtime, object, name->text());
  std::int64_t at = 0;
  if (as_integer(key, at)) {
    if (const List* list = as_list(object)) {
      const auto count = static_cast<std::int64_t>(list->items.size());
      if (at < 0) at += count;
      if (at >= 0 && at < count) return list->items[static_cast<std::size_t>(at)];
      return undefined(concat("a list has no element ", at));
    }
    if (const OriginText* text = as_text(object)) {
      const std::int64_t count = length_of(runtime, object);
      if (at < 0) at += count;
      if (at < 0 || at >= count) return undefined(concat("a string has no character ", at));
      const Value begin = at, end = at + 1;
      return slice_text(runtime, *text, &begin, &end, nullptr);
    }
  }
  return undefined(concat(type_name(object), " has no such element"));
}

Value get_path(Runtime& runtime, const Value& object, std::string_view path,
               const Value* otherwise) {
  Value value = object;
  while (true) {
    const std::size_t dot = path.find('.');
    const std::string_view part = path.substr(0, dot);
    std::int64_t index = 0;
    const auto parsed = std::from_chars(part.data(), part.data() + part.size(), index);
    const bool is_index =
        !part.empty() && parsed.ptr == part.data() + part.size() && part[0] != '-';
    value = get_item(runtime, value, is_index ? Value(index) : runtime.text(part));
    if (otherwise != nullptr && is_undefined(value)) value = *otherwise;
    if (dot == std::string_view::npos) return value;
    path.remove_prefix(dot + 1);
  }
}

Value get_slice(Runtime& runtime, const Value& object, const Value* begin, const Value* end,
                const Value* step) {
  if (const auto* missing = get<Undefined>(object)) runtime.fail(*missing->why);
  if (const OriginText* text = as_text(object)) return slice_text(runtime, *text, begin, end, step);
  const List* list = as_list(object);
  if (list == nullptr) runtime.fail(concat(type_name(object), " cannot be sliced"));
  const auto count = static_cast<std::int64_t>(list->items.size());
  const Range range = clip(runtime, count, begin, end, step);
  std::vector<Value> items;
  for (std::int64_t i = range.begin; range.step > 0 ? i < range.end : i > range.end;
       i += range.step) {
    items.push_back(list->items[static_cast<std::size_t>(i)]);
    if (range.step > count || range.step < -count) break;  // the next sum might overflow
  }
  return runtime.list(std::move(items), list->kind);
}

}  // namespace quire::text::jinja

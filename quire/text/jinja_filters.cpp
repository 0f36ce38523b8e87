#include <algorithm>
#include <charconv>
#include <cmath>
#include <limits>

#include "quire/base/error.h"
#include "quire/text/jinja_builtins.h"
#include "quire/text/jinja_texts.h"

namespace quire::text::jinja {
namespace {

using Filter = Value (*)(Runtime&, const Value&, Arguments&);
enum class Order { kAsGiven, kIgnoreCase };

/// The value by which sort, min, max and unique tell elements apart.
Value key_of(Runtime& runtime, const Value& item, const Value* attribute, Order order) {
  Value key = item;
  if (attribute != nullptr && !is_none(*attribute)) {
    key = as_text(*attribute) != nullptr ? get_path(runtime, item, as_text(*attribute)->text())
                                         : get_item(runtime, item, *attribute);
  }
  if (order == Order::kIgnoreCase && as_text(key) != nullptr) {
    return runtime.text(in_case(runtime, *as_text(key), CaseStyle::kLower));
  }
  return key;
}

Order order_of(Arguments& arguments, std::size_t index) {
  return arguments.boolean(index, "case_sensitive", false) ? Order::kAsGiven : Order::kIgnoreCase;
}

template <CaseStyle kStyle>
Value change_case(Runtime& runtime, const Value& input, Arguments&) {
  return runtime.text(in_case(runtime, to_str(runtime, input), kStyle));
}

Value trim(Runtime& runtime, const Value& input, Arguments& arguments) {
  const Value* characters = arguments.find(0, "chars");
  const bool given = characters != nullptr && !is_none(*characters);
  return runtime.text(
      strip(to_str(runtime, input), Side::kBoth, given ? &arguments.text(0, "chars") : nullptr));
}

Value length(Runtime& runtime, const Value& input, Arguments&) { return length_of(runtime, input); }
Value to_string(Runtime& runtime, const Value& input, Arguments&) {
  return runtime.text(to_str(runtime, input));
}
Value to_list(Runtime& runtime, const Value& input, Arguments&) {
  return runtime.list(iterate(runtime, input)->items);
}

Value to_json_text(Runtime& runtime, const Value& input, Arguments& arguments) {
  JsonStyle style;
  style.ensure_ascii = arguments.boolean(0, "ensure_ascii", false);
  const Value* indent = arguments.find(1, "indent");
  if (indent != nullptr && !is_none(*indent)) {
    style.indent = std::max<std::int64_t>(0, arguments.integer(1, "indent", 0));
    if (style.indent > 1000) runtime.fail("tojson: an indent of more than 1000");
    style.item_separator = std::string(1, ',');
  }
  const Value* separators = arguments.find(2, "separators");
  if (separators != nullptr && !is_none(*separators)) {
    const ListPtr pair = iterate(runtime, *separators);
    if (pair->items.size() != 2 || as_text(pair->items[0]) == nullptr ||
        as_text(pair->items[1]) == nullptr) {
      runtime.fail("tojson: separators must be two strings");
    }
    style.item_separator = as_text(pair->items[0])->text();
    style.key_separator = as_text(pair->items[1])->text();
  }
  style.sort_keys = arguments.boolean(3, "sort_keys", false);
  return runtime.text(to_json(runtime, input, style));
}

Value join_items(Runtime& runtime, const Value& input, Arguments& arguments) {
  const Value* separator = arguments.find(0, "d");
  const Value* attribute = arguments.find(1, "attribute");
  std::vector<OriginText> parts;
  const ListPtr elements = iterate(runtime, input);
  for (const Value& item : elements->items) {
    parts.push_back(to_str(runtime, key_of(runtime, item, attribute, Order::kAsGiven)));
  }
  const OriginText between = separator == nullptr ? OriginText() : to_str(runtime, *separator);
  return runtime.text(join(runtime, between, parts));
}

Value default_value(Runtime& runtime, const Value& input, Arguments& arguments) {
  const Value* otherwise = arguments.find(0, "default_value");
  const bool replaces_false = arguments.boolean(1, "boolean", false);
  if (!is_undefined(input) && (!replaces_false || is_true(input))) return input;
  return otherwise == nullptr ? runtime.text("") : *otherwise;
}

Value first(Runtime& runtime, const Value& input, Arguments&) {
  const ListPtr list = iterate(runtime, input);
  return list->items.empty() ? undefined("there is no first element") : list->items.front();
}
Value last(Runtime& runtime, const Value& input, Arguments&) {
  const ListPtr list = iterate(runtime, input);
  return list->items.empty() ? undefined("there is no last element") : list->items.back();
}

Value replace_text(Runtime& runtime, const Value& input, Arguments& arguments) {
  const OriginText from = to_str(runtime, arguments.need(0, "old"));
  const OriginText to = to_str(runtime, arguments.need(1, "new"));
  const Value* count = arguments.find(2, "count");
  const std::int64_t most =
      count == nullptr || is_none(*count) ? -1 : arguments.integer(2, "count", -1);
  return runtime.text(replace(runtime, to_str(runtime, input), from, to, most));
}

/// Python's float(): the whole text, spaces around it allowed.
bool parse_float(std::string_view text, double& out) {
  if (!text.empty() && text[0] == '+') text.remove_prefix(1);
  const auto parsed = std::from_chars(text.data(), text.data() + text.size(), out);
  return parsed.ec == std::errc() && parsed.ptr == text.data() + text.size();
}

Value to_int(Runtime& runtime, const Value& input, Arguments& arguments) {
  const Value* given = arguments.find(0, "default");
  const Value otherwise = given == nullptr ? Value(std::int64_t{0}) : *given;
  std::int64_t integer = 0;
  if (as_integer(input, integer)) return integer;
  double number = 0;
  if (const OriginText* text = as_text(input)) {
    const OriginText digits = strip(*text, Side::kBoth, nullptr);
    std::string_view all = digits.text();
    if (all.substr(0, 1) == "+" && all.substr(1, 1) != "-") all.remove_prefix(1);
    const auto parsed = std::from_chars(all.data(), all.data() + all.size(), integer);
    if (parsed.ptr == all.data() + all.size() && !all.empty()) {
      if (parsed.ec == std::errc::result_out_of_range) runtime.fail("an integer beyond 64 bits");
      if (parsed.ec == std::errc()) return integer;
    }
    if (!parse_float(all, number)) return otherwise;
  } else if (const auto* value = get<double>(input)) {
    number = *value;
  } else {
    return otherwise;
  }
  if (!std::isfinite(number)) return otherwise;
  if (std::abs(number) >= 0x1p63) runtime.fail("an integer beyond 64 bits");
  return static_cast<std::int64_t>(number);
}

Value to_float(Runtime&, const Value& input, Arguments& arguments) {
  const Value* given = arguments.find(0, "default");
  double number = 0;
  if (as_number(input, number)) return number;
  const OriginText* text = as_text(input);
  if (text != nullptr && parse_float(strip(*text, Side::kBoth, nullptr).text(), number))
    return number;
  return given == nullptr ? Value(0.0) : *given;
}

Value items(Runtime& runtime, const Value& input, Arguments&) {
  std::vector<Value> out;
  if (const Dict* dict = as_dict(input)) {
    for (const auto& [key, value] : dict->items)
      out.push_back(runtime.list({key, value}, Sequence::kTuple));
  } else if (!is_undefined(input)) {
    runtime.fail(concat("items takes a dict, not ", type_name(input)));
  }
  return runtime.list(std::move(out));
}

Value sorted(Runtime& runtime, const Value& input, Arguments& arguments) {
  const bool reverse = arguments.boolean(0, "reverse", false);
  const Order order = order_of(arguments, 1);
  const Value* attribute = arguments.find(2, "attribute");
  std::vector<std::pair<Value, Value>> keyed;
  const ListPtr elements = iterate(runtime, input);
  for (const Value& item : elements->items) {
    keyed.emplace_back(key_of(runtime, item, attribute, order), item);
  }
  std::stable_sort(keyed.begin(), keyed.end(), [&](const auto& a, const auto& b) {
    return reverse ? compare(runtime, b.first, a.first) < 0
                   : compare(runtime, a.first, b.first) < 0;
  });
  std::vector<Value> out;
  for (auto& item : keyed) out.push_back(std::move(item.second));
  return runtime.list(std::move(out));
}

Value sorted_dict(Runtime& runtime, const Value& input, Arguments& arguments) {
  const Order order = order_of(arguments, 0);
  const Value* by = arguments.find(1, "by");
  const bool by_value = by != nullptr && arguments.text(1, "by").text() == "value";
  const bool reverse = arguments.boolean(2, "reverse", false);
  if (as_dict(input) == nullptr)
    runtime.fail(concat("dictsort takes a dict, not ", type_name(input)));
  auto pairs = as_dict(input)->items;
  std::stable_sort(pairs.begin(), pairs.end(), [&](const auto& a, const auto& b) {
    const Value x = key_of(runtime, by_value ? a.second : a.first, nullptr, order);
    const Value y = key_of(runtime, by_value ? b.second : b.first, nullptr, order);
    return reverse ? compare(runtime, y, x) < 0 : compare(runtime, x, y) < 0;
  });
  std::vector<Value> out;
  for (auto& [key, value] : pairs) out.push_back(runtime.list({key, value}, Sequence::kTuple));
  return runtime.list(std::move(out));
}

Value reversed(Runtime& runtime, const Value& input, Arguments&) {
  const Value step = std::int64_t{-1};
  if (as_text(input) != nullptr) return get_slice(runtime, input, nullptr, nullptr, &step);
  const ListPtr list = iterate(runtime, input);
  return runtime.list({list->items.rbegin(), list->items.rend()});
}

Value unique(Runtime& runtime, const Value& input, Arguments& arguments) {
  const Order order = order_of(arguments, 0);
  const Value* attribute = arguments.find(1, "attribute");
  std::vector<Value> out, keys;
  const ListPtr elements = iterate(runtime, input);
  for (const Value& item : elements->items) {
    const Value key = key_of(runtime, item, attribute, order);
    const bool seen = std::any_of(keys.begin(), keys.end(),
                                  [&](const Value& k) { return equal(runtime, k, key); });
    if (seen) continue;
    keys.push_back(key);
    out.push_back(item);
  }
  return runtime.list(std::move(out));
}

template <int kSign>
Value extreme(Runtime& runtime, const Value& input, Arguments& arguments) {
  const Order order = order_of(arguments, 0);
  const Value* attribute = arguments.find(1, "attribute");
  Value best = undefined("there is no element");
  Value best_key;
  const ListPtr elements = iterate(runtime, input);
  for (const Value& item : elements->items) {
    const Value key = key_of(runtime, item, attribute, order);
    if (is_undefined(best) || compare(runtime, key, best_key) * kSign > 0) {
      best = item;
      best_key = key;
    }
  }
  return best;
}

Value sum(Runtime& runtime, const Value& input, Arguments& arguments) {
  const Value* attribute = arguments.find(0, "attribute");
  const Value* start = arguments.find(1, "start");
  Value total = start == nullptr ? Value(std::int64_t{0}) : *start;
  const ListPtr elements = iterate(runtime, input);
  for (const Value& item : elements->items) {
    total = arithmetic(runtime, Operator::kAdd, total,
                       key_of(runtime, item, attribute, Order::kAsGiven));
  }
  return total;
}

Value absolute(Runtime& runtime, const Value& input, Arguments&) {
  if (const auto* number = get<double>(input)) return std::abs(*number);
  std::int64_t integer = 0;
  if (!as_integer(input, integer)) runtime.fail(concat("abs of ", type_name(input)));
  return integer < 0 ? negate(runtime, integer) : Value(integer);
}

Value indent(Runtime& runtime, const Value& input, Arguments& arguments) {
  const Value* width = arguments.find(0, "width");
  OriginText margin;
  if (width != nullptr && as_text(*width) != nullptr) {
    margin = *as_text(*width);
  } else {
    const Value spaces = arithmetic(runtime, Operator::kMultiply, runtime.text(" "),
                                    Value(arguments.integer(0, "width", 4)));
    margin = *as_text(spaces);
  }
  const bool first_too = arguments.boolean(1, "first", false);
  const bool blank_too = arguments.boolean(2, "blank", false);
  return runtime.text(indent_lines(runtime, to_str(runtime, input), margin, first_too, blank_too));
}

/// The arguments after the first `count`, for the filter or test that the first ones name.
Arguments rest_of(Runtime& runtime, const Arguments& arguments, std::size_t count,
                  std::string_view function) {
  Arguments rest(runtime, function);
  for (std::size_t i = count; i < arguments.positional.size(); ++i) {
    rest.positional.push_back(arguments.positional[i]);
  }
  rest.named = arguments.named;
  return rest;
}

Value map(Runtime& runtime, const Value& input, Arguments& arguments) {
  std::vector<Value> out;
  const ListPtr list = iterate(runtime, input);
  if (arguments.positional.empty()) {
    const Value& attribute = arguments.need(0, "attribute");
    const Value* otherwise = arguments.find(1, "default");
    for (const Value& item : list->items) {
      const OriginText* path = as_text(attribute);
      Value value = path != nullptr ? get_path(runtime, item, path->text(), otherwise)
                                    : get_item(runtime, item, attribute);
      out.push_back(is_undefined(value) && otherwise != nullptr ? *otherwise : std::move(value));
    }
    return runtime.list(std::move(out));
  }
  const std::string name = arguments.text(0, "filter").text();
  for (const Value& item : list->items) {
    Arguments rest = rest_of(runtime, arguments, 1, name);
    out.push_back(apply_filter(runtime, name, item, rest));
  }
  arguments.use_all();
  return runtime.list(std::move(out));
}

enum class Keep { kPassed, kFailed };
enum class On { kItem, kAttribute };

/// select, reject, selectattr and rejectattr.
template <Keep kKeep, On kOn>
Value choose(Runtime& runtime, const Value& input, Arguments& arguments) {
  constexpr std::size_t kFirst = kOn == On::kAttribute ? 1 : 0;
  const Value* attribute = kOn == On::kAttribute ? &arguments.need(0, "attribute") : nullptr;
  const bool has_test = arguments.positional.size() > kFirst;
  const std::string test = has_test ? arguments.text(kFirst, "test").text() : std::string();
  std::vector<Value> out;
  const ListPtr elements = iterate(runtime, input);
  for (const Value& item : elements->items) {
    runtime.charge(1);
    const Value subject = key_of(runtime, item, attribute, Order::kAsGiven);
    bool passed = is_true(subject);
    if (has_test) {
      Arguments rest = rest_of(runtime, arguments, kFirst + 1, test);
      passed = apply_test(runtime, test, subject, rest);
    }
    if (passed == (kKeep == Keep::kPassed)) out.push_back(item);
  }
  if (has_test) arguments.use_all();
  return runtime.list(std::move(out));
}

struct Entry {
  std::string_view name;
  Filter filter;
};
constexpr Entry kFilters[] = {
    {"abs", absolute},
    {"capitalize", change_case<CaseStyle::kCapitalize>},
    {"count", length},
    {"d", default_value},
    {"default", default_value},
    {"dictsort", sorted_dict},
    {"first", first},
    {"float", to_float},
    {"indent", indent},
    {"int", to_int},
    {"items", items},
    {"join", join_items},
    {"last", last},
    {"length", length},
    {"list", to_list},
    {"lower", change_case<CaseStyle::kLower>},
    {"map", map},
    {"max", extreme<1>},
    {"min", extreme<-1>},
    {"reject", choose<Keep::kFailed, On::kItem>},
    {"rejectattr", choose<Keep::kFailed, On::kAttribute>},
    {"replace", replace_text},
    {"reverse", reversed},
    {"select", choose<Keep::kPassed, On::kItem>},
    {"selectattr", choose<Keep::kPassed, On::kAttribute>},
    {"sort", sorted},
    {"string", to_string},
    {"sum", sum},
    {"title", change_case<CaseStyle::kJinjaTitle>},
    {"tojson", to_json_text},
    {"trim", trim},
    {"unique", unique},
    {"upper", change_case<CaseStyle::kUpper>},
};

const Entry* find_filter(std::string_view name) {
  const auto* found = std::find_if(std::begin(kFilters), std::end(kFilters),
                                   [name](const Entry& entry) { return entry.name == name; });
  return found == std::end(kFilters) ? nullptr : found;
}

}  // namespace

bool is_filter(std::string_view name) { return find_filter(name) != nullptr; }

Value apply_filter(Runtime& runtime, std::string_view name, const Value& input,
                   Arguments& arguments) {
  runtime.charge(1);
  const Entry* entry = find_filter(name);
  if (entry == nullptr) runtime.fail(concat("unknown filter \"", name, "\""));
  Value result = entry->filter(runtime, input, arguments);
  arguments.finish();
  return result;
}

}  // namespace quire::text::jinja

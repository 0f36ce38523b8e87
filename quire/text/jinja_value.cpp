#include "quire/text/jinja_value.h"

#include <algorithm>
#include <cmath>

#include "quire/base/error.h"
#include "quire/base/utf8.h"

namespace quire::text::jinja {
namespace {

// A sandboxed Jinja refuses longer ranges; lists made otherwise get ten times as much.
constexpr std::size_t kMostItems = 1'000'000;

/// A macro lives no longer than the scope that it was defined in, so that nothing may keep it.
void refuse_macro(const Runtime& runtime, const Value& value) {
  const auto* callable = get<std::shared_ptr<const Callable>>(value);
  if (callable != nullptr && (*callable)->macro != nullptr)
    runtime.fail("a macro cannot be stored");
}

template <class T>
int sign_of(const T& a, const T& b) {
  return a < b ? -1 : a > b ? 1 : 0;
}

}  // namespace

Runtime::~Runtime() {
  // Namespaces may name each other; none of them is deleted before all have let go.
  for (Namespace& space : namespaces_) space.items.clear();
}

void Runtime::fail(std::string_view message) const {
  throw FormatError(
      concat("chat template, line ", place.line, ", column ", place.column, ": ", message));
}

void Runtime::charge(std::int64_t steps) {
  steps_ += steps;
  if (steps_ > limits_.steps) fail(concat("more than ", limits_.steps, " steps"));
}

void Runtime::charge_bytes(std::size_t bytes) {
  if (bytes > limits_.output_bytes) {
    fail(concat("a text of more than ", std::uint64_t{limits_.output_bytes}, " bytes"));
  }
  charge(static_cast<std::int64_t>(bytes / 256));
}

void Runtime::charge_items(std::size_t items) {
  if (items > kMostItems)
    fail(concat("a list of more than ", std::uint64_t{kMostItems}, " elements"));
  charge(static_cast<std::int64_t>(items / 4));
}

Value Runtime::text(OriginText text) {
  charge_bytes(text.size());
  return std::make_shared<const OriginText>(std::move(text));
}

Value Runtime::list(std::vector<Value> items, Sequence kind) {
  charge_items(items.size());
  List list{std::move(items), kind};
  for (const Value& item : list.items) {
    refuse_macro(*this, item);
    list.depth = std::max(list.depth, 1 + depth_of(item));
  }
  if (list.depth > limits_.depth) fail(concat("a list nested deeper than ", limits_.depth));
  return std::make_shared<const List>(std::move(list));
}

Value Runtime::dict(std::vector<std::pair<Value, Value>> items) {
  charge_items(items.size());
  Dict dict{std::move(items)};
  for (const auto& [key, value] : dict.items) {
    refuse_macro(*this, value);
    dict.depth = std::max({dict.depth, 1 + depth_of(key), 1 + depth_of(value)});
  }
  if (dict.depth > limits_.depth) fail(concat("a dict nested deeper than ", limits_.depth));
  return std::make_shared<const Dict>(std::move(dict));
}

Namespace* Runtime::make_namespace() { return &namespaces_.emplace_back(); }

void Runtime::set_attribute(Namespace& space, std::string_view name, Value value) {
  refuse_macro(*this, value);
  charge_items(space.items.size());
  for (auto& item : space.items) {
    if (item.first == name) {
      item.second = std::move(value);
      return;
    }
  }
  space.items.emplace_back(name, std::move(value));
}

void Runtime::append(OriginText& out, const OriginText& part, std::size_t begin, std::size_t end) {
  charge_bytes(end - begin);
  if (end - begin > limits_.output_bytes - std::min(limits_.output_bytes, out.size())) {
    charge_bytes(limits_.output_bytes + 1);
  }
  out.append(part, begin, end);
}

void Runtime::append(OriginText& out, std::string_view part, Origin origin) {
  charge_bytes(part.size());
  if (part.size() > limits_.output_bytes - std::min(limits_.output_bytes, out.size())) {
    charge_bytes(limits_.output_bytes + 1);
  }
  out.append(part, origin);
}

Value undefined(std::string why) {
  return Undefined{std::make_shared<const std::string>(std::move(why))};
}

bool as_integer(const Value& value, std::int64_t& out) {
  if (const auto* integer = get<std::int64_t>(value)) {
    out = *integer;
    return true;
  }
  if (const auto* boolean = get<bool>(value)) {
    out = *boolean ? 1 : 0;
    return true;
  }
  return false;
}

bool as_number(const Value& value, double& out) {
  if (const auto* number = get<double>(value)) {
    out = *number;
    return true;
  }
  std::int64_t integer = 0;
  if (!as_integer(value, integer)) return false;
  out = static_cast<double>(integer);
  return true;
}

std::string_view type_name(const Value& value) {
  constexpr std::string_view kNames[] = {"undefined",   "none",       "a boolean", "an integer",
                                         "a float",     "a string",   "a list",    "a dict",
                                         "a namespace", "a function", "a loop"};
  return kNames[value.index()];
}

bool is_true(const Value& value) {
  if (const auto* boolean = get<bool>(value)) return *boolean;
  if (const auto* integer = get<std::int64_t>(value)) return *integer != 0;
  if (const auto* number = get<double>(value)) return *number != 0;
  if (const auto* text = as_text(value)) return !text->empty();
  if (const auto* list = as_list(value)) return !list->items.empty();
  if (const auto* dict = as_dict(value)) return !dict->items.empty();
  return !is_undefined(value) && !is_none(value);
}

int depth_of(const Value& value) {
  if (const auto* list = as_list(value)) return list->depth;
  if (const auto* dict = as_dict(value)) return dict->depth;
  if (const auto* loop = get<std::shared_ptr<const Loop>>(value)) return (*loop)->items->depth;
  if (const auto* callable = get<std::shared_ptr<const Callable>>(value)) {
    return 1 + depth_of((*callable)->self);
  }
  return 0;
}

bool equal(Runtime& runtime, const Value& a, const Value& b) {
  runtime.charge(1);
  double x = 0, y = 0;
  std::int64_t i = 0, j = 0;
  if (as_integer(a, i) && as_integer(b, j)) return i == j;
  if (as_number(a, x) && as_number(b, y)) return x == y;
  if (a.index() != b.index()) return false;
  if (const auto* text = as_text(a)) {
    runtime.charge_bytes(std::min(text->size(), as_text(b)->size()));
    return text->text() == as_text(b)->text();
  }
  if (const auto* list = as_list(a)) {
    const List* other = as_list(b);
    if (list->kind != other->kind || list->items.size() != other->items.size()) return false;
    for (std::size_t k = 0; k < list->items.size(); ++k) {
      if (!equal(runtime, list->items[k], other->items[k])) return false;
    }
    return true;
  }
  if (const auto* dict = as_dict(a)) {
    const Dict* other = as_dict(b);
    if (dict->items.size() != other->items.size()) return false;
    for (const auto& [key, value] : dict->items) {
      const Value* found = find(runtime, *other, key);
      if (found == nullptr || !equal(runtime, value, *found)) return false;
    }
    return true;
  }
  if (const auto* space = get<Namespace*>(a)) return *space == *get<Namespace*>(b);
  if (is_undefined(a) || is_none(a)) return true;
  runtime.fail(concat("cannot compare ", type_name(a)));
}

int compare(Runtime& runtime, const Value& a, const Value& b) {
  runtime.charge(1);
  double x = 0, y = 0;
  std::int64_t i = 0, j = 0;
  if (as_integer(a, i) && as_integer(b, j)) return sign_of(i, j);
  if (as_number(a, x) && as_number(b, y)) {
    if (std::isnan(x) || std::isnan(y)) runtime.fail("NaN has no order");
    return sign_of(x, y);
  }
  const auto *text_a = as_text(a), *text_b = as_text(b);
  if (text_a != nullptr && text_b != nullptr) {
    runtime.charge_bytes(std::min(text_a->size(), text_b->size()));
    return text_a->text().compare(text_b->text());  // UTF-8 sorts as its code points do
  }
  const auto *list_a = as_list(a), *list_b = as_list(b);
  if (list_a != nullptr && list_b != nullptr && list_a->kind == list_b->kind) {
    const std::size_t common = std::min(list_a->items.size(), list_b->items.size());
    for (std::size_t k = 0; k < common; ++k) {
      if (equal(runtime, list_a->items[k], list_b->items[k])) continue;
      return compare(runtime, list_a->items[k], list_b->items[k]);
    }
    return sign_of(list_a->items.size(), list_b->items.size());
  }
  runtime.fail(concat("there is no order between ", type_name(a), " and ", type_name(b)));
}

const Value* find(Runtime& runtime, const Dict& dict, const Value& key) {
  if (const OriginText* text = as_text(key)) return find(runtime, dict, text->text());
  if (as_list(key) != nullptr || as_dict(key) != nullptr) {
    runtime.fail(concat(type_name(key), " cannot be a key"));
  }
  for (const auto& [name, value] : dict.items) {
    if (equal(runtime, name, key)) return &value;
  }
  return nullptr;
}

const Value* find(Runtime& runtime, const Dict& dict, std::string_view key) {
  runtime.charge_items(dict.items.size());
  for (const auto& [name, value] : dict.items) {
    const OriginText* text = as_text(name);
    if (text != nullptr && text->text() == key) return &value;
  }
  return nullptr;
}

ListPtr iterate(Runtime& runtime, const Value& value) {
  if (const auto* list = get<ListPtr>(value)) return *list;
  std::vector<Value> items;
  if (const Dict* dict = as_dict(value)) {
    for (const auto& item : dict->items) items.push_back(item.first);
  } else if (const OriginText* text = as_text(value)) {
    runtime.charge_items(text->size());
    for (std::size_t at = 0; at < text->size();) {
      const std::size_t bytes = character_at(text->text(), at).size();
      items.push_back(runtime.text(text->slice(at, at + bytes)));
      at += bytes;
    }
  } else if (!is_undefined(value)) {
    runtime.fail(concat(type_name(value), " is not iterable"));
  }
  return std::get<ListPtr>(runtime.list(std::move(items)));
}

std::size_t count_characters(std::string_view text) {
  return static_cast<std::size_t>(std::count_if(text.begin(), text.end(), [](char c) {
    return (static_cast<unsigned char>(c) & 0xC0) != 0x80;
  }));
}

std::string_view character_at(std::string_view text, std::size_t at) {
  return text.substr(at, utf8_step(text.substr(at)).bytes);
}

}  // namespace quire::text::jinja

#pragma once

#include <cstdint>
#include <deque>
#include <memory>
#include <string>
#include <string_view>
#include <utility>
#include <variant>
#include <vector>

#include "quire/text/chat_template.h"
#include "quire/text/origin_text.h"

namespace quire::text::jinja {

/// A place in a template's source, from 1.
struct Place {
  int line = 1, column = 1;
};

/// What a missing variable, member or element gives: empty text, false, an empty sequence; anything
/// else is an error.
struct Undefined {
  std::shared_ptr<const std::string> why;  // "'x' is undefined"
};
struct None {};

struct List;
struct Dict;
struct Namespace;
struct Callable;
struct Loop;

/// A value of the template language. Texts, lists and dicts never change once made, so that copies
/// share them and no cycle can form; only a Namespace changes, and the Runtime owns those.
using Value =
    std::variant<Undefined, None, bool, std::int64_t, double, std::shared_ptr<const OriginText>,
                 std::shared_ptr<const List>, std::shared_ptr<const Dict>, Namespace*,
                 std::shared_ptr<const Callable>, std::shared_ptr<const Loop>>;
using TextPtr = std::shared_ptr<const OriginText>;
using ListPtr = std::shared_ptr<const List>;
using DictPtr = std::shared_ptr<const Dict>;

enum class Sequence : std::uint8_t { kList, kTuple };

struct List {
  std::vector<Value> items;
  Sequence kind = Sequence::kList;
  int depth = 1;
};

struct Dict {
  std::vector<std::pair<Value, Value>> items;
  int depth = 1;
};

struct Namespace {
  std::vector<std::pair<std::string, Value>> items;
};

struct Loop {
  ListPtr items;
  std::size_t index = 0;
  int depth = 1;
};

struct Statement;
struct Scope;

/// A macro, a global function, or a method together with its object.
struct Callable {
  std::string name;
  Value self{};                      // of a method
  const Statement* macro = nullptr;  // a macro, or the body of a call block
  Scope* scope = nullptr;            // where the macro was defined
};

/// What a render may still spend, where it stands, and the errors it throws.
class Runtime {
 public:
  explicit Runtime(const TemplateLimits& limits) : limits_(limits) {}
  ~Runtime();
  Runtime(const Runtime&) = delete;
  Runtime& operator=(const Runtime&) = delete;

  Place place;
  [[noreturn]] void fail(std::string_view message) const;
  /// Throws when the steps are used up.
  void charge(std::int64_t steps);
  /// Work on so many bytes of text or elements of a list: throws when it is too much.
  void charge_bytes(std::size_t bytes);
  void charge_items(std::size_t items);
  const TemplateLimits& limits() const { return limits_; }

  Value text(OriginText text);
  Value text(std::string_view text) { return this->text(OriginText(text, Origin::kTemplate)); }
  Value list(std::vector<Value> items, Sequence kind = Sequence::kList);
  Value dict(std::vector<std::pair<Value, Value>> items);
  Namespace* make_namespace();
  void set_attribute(Namespace& space, std::string_view name, Value value);
  /// Appends within the output limit.
  void append(OriginText& out, const OriginText& part, std::size_t begin, std::size_t end);
  void append(OriginText& out, const OriginText& part) { append(out, part, 0, part.size()); }
  void append(OriginText& out, std::string_view part) { append(out, part, Origin::kTemplate); }
  void append(OriginText& out, std::string_view part, Origin origin);

 private:
  const TemplateLimits limits_;
  std::int64_t steps_ = 0;
  std::deque<Namespace> namespaces_;
};

Value undefined(std::string why);

template <class T>
const T* get(const Value& value) {
  return std::get_if<T>(&value);
}
inline const OriginText* as_text(const Value& value) {
  const auto* text = get<TextPtr>(value);
  return text == nullptr ? nullptr : text->get();
}
inline const List* as_list(const Value& value) {
  const auto* list = get<ListPtr>(value);
  return list == nullptr ? nullptr : list->get();
}
inline const Dict* as_dict(const Value& value) {
  const auto* dict = get<DictPtr>(value);
  return dict == nullptr ? nullptr : dict->get();
}
inline bool is_undefined(const Value& value) { return get<Undefined>(value) != nullptr; }
inline bool is_none(const Value& value) { return get<None>(value) != nullptr; }
/// Integers and booleans, as Python has it.
bool as_integer(const Value& value, std::int64_t& out);
bool as_number(const Value& value, double& out);

/// "a string", "a list" … for messages.
std::string_view type_name(const Value& value);
bool is_true(const Value& value);
int depth_of(const Value& value);
bool equal(Runtime& runtime, const Value& a, const Value& b);
/// Negative, 0, positive; throws for values that have no order.
int compare(Runtime& runtime, const Value& a, const Value& b);
/// The member of a dict; null when absent.
const Value* find(Runtime& runtime, const Dict& dict, const Value& key);
const Value* find(Runtime& runtime, const Dict& dict, std::string_view key);
/// The elements of a list, the keys of a dict, the characters of a text; throws for what is not
/// iterable.
ListPtr iterate(Runtime& runtime, const Value& value);

/// str() and repr() of Python.
void append_str(Runtime& runtime, OriginText& out, const Value& value);
void append_repr(Runtime& runtime, OriginText& out, const Value& value);
OriginText to_str(Runtime& runtime, const Value& value);
std::string float_repr(double value);

/// json.dumps of Python with ensure_ascii=False; `indent` < 0: on one line.
struct JsonStyle {
  std::int64_t indent = -1;
  std::string item_separator = ", ", key_separator = ": ";
  bool ensure_ascii = false, sort_keys = false;
};
OriginText to_json(Runtime& runtime, const Value& value, const JsonStyle& style);

/// Number of characters; the character that begins at byte `at`.
std::size_t count_characters(std::string_view text);
std::string_view character_at(std::string_view text, std::size_t at);

}  // namespace quire::text::jinja

#pragma once

#include <string>
#include <string_view>
#include <utility>
#include <vector>

#include "quire/text/jinja_ast.h"
#include "quire/text/jinja_value.h"

namespace quire::text::jinja {

/// The arguments of a call. What a function does not ask for is an error.
class Arguments {
 public:
  Arguments(Runtime& runtime, std::string_view function) : runtime_(runtime), function_(function) {}

  std::vector<Value> positional;
  std::vector<std::pair<std::string, Value>> named;

  /// The argument at `index` or with this name; null when it was not given.
  const Value* find(std::size_t index, std::string_view name);
  /// The same; throws when it was not given.
  const Value& need(std::size_t index, std::string_view name);
  const OriginText& text(std::size_t index, std::string_view name);
  std::int64_t integer(std::size_t index, std::string_view name, std::int64_t otherwise);
  bool boolean(std::size_t index, std::string_view name, bool otherwise);
  /// Throws when there is an argument that nobody asked for.
  void finish() const;
  /// All are in use (what takes any number of them).
  void use_all() { used_ = ~std::uint64_t{0}; }

 private:
  Runtime& runtime_;
  std::string function_;
  std::uint64_t used_ = 0;  // one bit for each positional argument, then for each named one
};

// Each of these throws FormatError for what the values do not allow.

Value apply_filter(Runtime& runtime, std::string_view name, const Value& input,
                   Arguments& arguments);
bool apply_test(Runtime& runtime, std::string_view name, const Value& input, Arguments& arguments);

/// The global function of this name, or undefined.
Value find_function(std::string_view name);
/// Calls a global function or a method.
Value call_builtin(Runtime& runtime, const Callable& callable, Arguments& arguments);
Value call_method(Runtime& runtime, const Callable& callable, Arguments& arguments);

Value get_attribute(Runtime& runtime, const Value& object, std::string_view name);
Value get_item(Runtime& runtime, const Value& object, const Value& key);
/// "a.b.0": one attribute or element after another; `otherwise` (if given) stands for each that is
/// absent.
Value get_path(Runtime& runtime, const Value& object, std::string_view path,
               const Value* otherwise = nullptr);
Value get_slice(Runtime& runtime, const Value& object, const Value* begin, const Value* end,
                const Value* step);

Value arithmetic(Runtime& runtime, Operator op, const Value& left, const Value& right);
Value negate(Runtime& runtime, const Value& value);
bool compare_by(Runtime& runtime, Operator op, const Value& left, const Value& right);
bool contains(Runtime& runtime, const Value& container, const Value& item);
/// Number of characters, elements or members.
std::int64_t length_of(Runtime& runtime, const Value& value);

}  // namespace quire::text::jinja

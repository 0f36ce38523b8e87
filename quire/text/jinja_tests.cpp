#include <algorithm>

#include "quire/base/error.h"
#include "quire/text/jinja_builtins.h"
#include "quire/text/jinja_texts.h"

namespace quire::text::jinja {
namespace {

using Test = bool (*)(Runtime&, const Value&, Arguments&);

template <class T>
bool holds(Runtime&, const Value& value, Arguments&) {
  return get<T>(value) != nullptr;
}

template <bool kWanted>
bool is_constant(Runtime&, const Value& value, Arguments&) {
  const auto* boolean = get<bool>(value);
  return boolean != nullptr && *boolean == kWanted;
}

template <Operator kOperator>
bool compares(Runtime& runtime, const Value& value, Arguments& arguments) {
  return compare_by(runtime, kOperator, value, arguments.need(0, "other"));
}

template <std::int64_t kRest>
bool has_parity(Runtime& runtime, const Value& value, Arguments&) {
  std::int64_t integer = 0;
  if (!as_integer(value, integer))
    runtime.fail(concat("odd and even take an integer, not ", type_name(value)));
  return (integer & 1) == kRest;
}

bool is_divisible(Runtime& runtime, const Value& value, Arguments& arguments) {
  const Value& by = arguments.need(0, "num");
  return !is_true(arithmetic(runtime, Operator::kModulo, value, by));
}

bool is_defined(Runtime&, const Value& value, Arguments&) { return !is_undefined(value); }
bool is_number(Runtime&, const Value& value, Arguments&) {
  double number = 0;
  return as_number(value, number);
}
bool is_sequence(Runtime&, const Value& value, Arguments&) {
  return as_text(value) != nullptr || as_list(value) != nullptr || as_dict(value) != nullptr ||
         is_undefined(value);
}
bool is_callable(Runtime&, const Value& value, Arguments&) {
  return get<std::shared_ptr<const Callable>>(value) != nullptr;
}
bool is_same(Runtime& runtime, const Value& value, Arguments& arguments) {
  const Value& other = arguments.need(0, "other");
  const bool simple = get<bool>(value) != nullptr || is_none(value);
  const bool other_simple = get<bool>(other) != nullptr || is_none(other);
  if (!simple && !other_simple)
    runtime.fail("sameas of other than none and booleans is not supported");
  return value.index() == other.index() && equal(runtime, value, other);
}
template <CaseStyle kStyle>
bool is_in_case(Runtime& runtime, const Value& value, Arguments&) {
  const OriginText text = to_str(runtime, value);
  const std::string changed = in_case(runtime, text, kStyle).text();
  const CaseStyle other = kStyle == CaseStyle::kLower ? CaseStyle::kUpper : CaseStyle::kLower;
  return changed == text.text() && in_case(runtime, text, other).text() != text.text();
}
bool names_filter(Runtime&, const Value& value, Arguments&) {
  return as_text(value) != nullptr && is_filter(as_text(value)->text());
}
bool names_test(Runtime&, const Value& value, Arguments&) {
  return as_text(value) != nullptr && is_test(as_text(value)->text());
}
bool is_in(Runtime& runtime, const Value& value, Arguments& arguments) {
  return contains(runtime, arguments.need(0, "seq"), value);
}

struct Entry {
  std::string_view name;
  Test test;
};
constexpr Entry kTests[] = {
    {"boolean", holds<bool>},
    {"callable", is_callable},
    {"defined", is_defined},
    {"divisibleby", is_divisible},
    {"eq", compares<Operator::kEqual>},
    {"equalto", compares<Operator::kEqual>},
    {"==", compares<Operator::kEqual>},
    {"even", has_parity<0>},
    {"false", is_constant<false>},
    {"filter", names_filter},
    {"float", holds<double>},
    {"ge", compares<Operator::kGreaterEqual>},
    {">=", compares<Operator::kGreaterEqual>},
    {"greaterthan", compares<Operator::kGreater>},
    {"gt", compares<Operator::kGreater>},
    {">", compares<Operator::kGreater>},
    {"in", is_in},
    {"integer", holds<std::int64_t>},
    {"iterable", is_sequence},
    {"le", compares<Operator::kLessEqual>},
    {"<=", compares<Operator::kLessEqual>},
    {"lessthan", compares<Operator::kLess>},
    {"lower", is_in_case<CaseStyle::kLower>},
    {"lt", compares<Operator::kLess>},
    {"<", compares<Operator::kLess>},
    {"mapping", holds<DictPtr>},
    {"ne", compares<Operator::kNotEqual>},
    {"!=", compares<Operator::kNotEqual>},
    {"none", holds<None>},
    {"number", is_number},
    {"odd", has_parity<1>},
    {"sameas", is_same},
    {"sequence", is_sequence},
    {"string", holds<TextPtr>},
    {"test", names_test},
    {"true", is_constant<true>},
    {"undefined", holds<Undefined>},
    {"upper", is_in_case<CaseStyle::kUpper>},
};

const Entry* find_test(std::string_view name) {
  const auto* found = std::find_if(std::begin(kTests), std::end(kTests),
                                   [name](const Entry& entry) { return entry.name == name; });
  return found == std::end(kTests) ? nullptr : found;
}

}  // namespace

bool is_test(std::string_view name) { return find_test(name) != nullptr; }

bool apply_test(Runtime& runtime, std::string_view name, const Value& input, Arguments& arguments) {
  runtime.charge(1);
  const Entry* entry = find_test(name);
  if (entry == nullptr) runtime.fail(concat("unknown test \"", name, "\""));
  const bool result = entry->test(runtime, input, arguments);
  arguments.finish();
  return result;
}

}  // namespace quire::text::jinja

#include <cmath>

#include "quire/base/error.h"
#include "quire/text/jinja_builtins.h"

namespace quire::text::jinja {
namespace {

std::string_view symbol(Operator op) {
  constexpr std::string_view kSymbols[] = {
      "+", "-", "*", "/", "//", "%", "**", "==", "!=", "<", "<=", ">", ">=", "in", "not in"};
  return kSymbols[static_cast<std::size_t>(op)];
}

[[noreturn]] void refuse(Runtime& runtime, Operator op, const Value& left, const Value& right) {
  for (const Value* side : {&left, &right}) {
    if (const auto* missing = get<Undefined>(*side)) runtime.fail(*missing->why);
  }
  runtime.fail(
      concat("\"", symbol(op), "\" does not work on ", type_name(left), " and ", type_name(right)));
}

std::int64_t floor_divide(std::int64_t a, std::int64_t b) {
  const std::int64_t quotient = a / b;
  return a % b != 0 && (a % b < 0) != (b < 0) ? quotient - 1 : quotient;
}

Value integer_power(Runtime& runtime, std::int64_t base, std::int64_t exponent) {
  if (exponent < 0) return std::pow(static_cast<double>(base), static_cast<double>(exponent));
  std::int64_t result = 1;
  bool overflow = false;
  if (base == 0 || base == 1) return exponent == 0 ? std::int64_t{1} : base;
  if (base == -1) return std::int64_t{exponent % 2 == 0 ? 1 : -1};
  for (std::int64_t i = 0; i < exponent && !overflow; ++i) {
    overflow = __builtin_mul_overflow(result, base, &result);
  }
  if (overflow) runtime.fail("an integer beyond 64 bits");
  return result;
}

Value integers(Runtime& runtime, Operator op, std::int64_t a, std::int64_t b) {
  std::int64_t result = 0;
  bool overflow = false;
  switch (op) {
    case Operator::kAdd:
      overflow = __builtin_add_overflow(a, b, &result);
      break;
    case Operator::kSubtract:
      overflow = __builtin_sub_overflow(a, b, &result);
      break;
    case Operator::kMultiply:
      overflow = __builtin_mul_overflow(a, b, &result);
      break;
    case Operator::kPower:
      return integer_power(runtime, a, b);
    default:
      if (b == 0) runtime.fail("division by zero");
      if (op == Operator::kDivide) return static_cast<double>(a) / static_cast<double>(b);
      // The smallest integer has no positive twin: the processor would trap.
      if (b == -1 && op == Operator::kModulo) return std::int64_t{0};
      if (b == -1) return integers(runtime, Operator::kSubtract, 0, a);
      result = floor_divide(a, b);
      if (op == Operator::kModulo) result = a - result * b;
  }
  if (overflow) runtime.fail("an integer beyond 64 bits");
  return result;
}

Value floats(Runtime& runtime, Operator op, double a, double b) {
  switch (op) {
    case Operator::kAdd:
      return a + b;
    case Operator::kSubtract:
      return a - b;
    case Operator::kMultiply:
      return a * b;
    case Operator::kPower:
      return std::pow(a, b);
    default:
      if (b == 0) runtime.fail("division by zero");
      if (op == Operator::kDivide) return a / b;
      double rest = std::fmod(a, b);
      if (rest != 0 && (rest < 0) != (b < 0)) rest += b;
      if (op == Operator::kModulo) return rest == 0 ? std::copysign(0.0, b) : rest;
      return std::round((a - rest) / b);
  }
}

Value repeat(Runtime& runtime, const Value& value, std::int64_t count) {
  const std::size_t times = count > 0 ? static_cast<std::size_t>(count) : 0;
  if (const OriginText* text = as_text(value)) {
    OriginText out;
    if (text->empty()) return value;
    for (std::size_t i = 0; i < times; ++i) {
      runtime.charge(1);
      runtime.append(out, *text);
    }
    return runtime.text(std::move(out));
  }
  const List& list = *as_list(value);
  std::vector<Value> items;
  if (list.items.empty()) return value;
  for (std::size_t i = 0; i < times; ++i) {
    runtime.charge(1);
    runtime.charge_items(items.size() + list.items.size());
    items.insert(items.end(), list.items.begin(), list.items.end());
  }
  return runtime.list(std::move(items), list.kind);
}

}  // namespace

Value arithmetic(Runtime& runtime, Operator op, const Value& left, const Value& right) {
  std::int64_t i = 0, j = 0;
  double x = 0, y = 0;
  const bool left_integer = as_integer(left, i), right_integer = as_integer(right, j);
  if (left_integer && right_integer) return integers(runtime, op, i, j);
  if (as_number(left, x) && as_number(right, y)) return floats(runtime, op, x, y);
  const auto *text = as_text(left), *other_text = as_text(right);
  const auto *list = as_list(left), *other_list = as_list(right);
  if (op == Operator::kAdd && text != nullptr && other_text != nullptr) {
    OriginText out = *text;
    runtime.charge_bytes(text->size());
    runtime.append(out, *other_text);
    return runtime.text(std::move(out));
  }
  if (op == Operator::kAdd && list != nullptr && other_list != nullptr &&
      list->kind == other_list->kind) {
    runtime.charge_items(list->items.size() + other_list->items.size());
    std::vector<Value> items = list->items;
    items.insert(items.end(), other_list->items.begin(), other_list->items.end());
    return runtime.list(std::move(items), list->kind);
  }
  if (op == Operator::kMultiply) {
    if (right_integer && (text != nullptr || list != nullptr)) return repeat(runtime, left, j);
    if (left_integer && (other_text != nullptr || other_list != nullptr))
      return repeat(runtime, right, i);
  }
  refuse(runtime, op, left, right);
}

Value negate(Runtime& runtime, const Value& value) {
  std::int64_t integer = 0;
  if (as_integer(value, integer)) return integers(runtime, Operator::kSubtract, 0, integer);
  if (const auto* number = get<double>(value)) return -*number;
  if (const auto* missing = get<Undefined>(value)) runtime.fail(*missing->why);
  runtime.fail(concat("\"-\" does not work on ", type_name(value)));
}

bool compare_by(Runtime& runtime, Operator op, const Value& left, const Value& right) {
  switch (op) {
    case Operator::kEqual:
      return equal(runtime, left, right);
    case Operator::kNotEqual:
      return !equal(runtime, left, right);
    case Operator::kIn:
      return contains(runtime, right, left);
    case Operator::kNotIn:
      return !contains(runtime, right, left);
    default:
      break;
  }
  if (is_undefined(left) || is_undefined(right)) refuse(runtime, op, left, right);
  const int order = compare(runtime, left, right);
  switch (op) {
    case Operator::kLess:
      return order < 0;
    case Operator::kLessEqual:
      return order <= 0;
    case Operator::kGreater:
      return order > 0;
    default:
      return order >= 0;
  }
}

bool contains(Runtime& runtime, const Value& container, const Value& item) {
  if (const OriginText* text = as_text(container)) {
    const OriginText* part = as_text(item);
    if (part == nullptr) refuse(runtime, Operator::kIn, item, container);
    runtime.charge_bytes(text->size());
    return text->text().find(part->text()) != std::string::npos;
  }
  if (const Dict* dict = as_dict(container)) return find(runtime, *dict, item) != nullptr;
  if (const List* list = as_list(container)) {
    for (const Value& element : list->items) {
      if (equal(runtime, element, item)) return true;
    }
    return false;
  }
  if (is_undefined(container)) return false;
  refuse(runtime, Operator::kIn, item, container);
}

std::int64_t length_of(Runtime& runtime, const Value& value) {
  if (const OriginText* text = as_text(value)) {
    runtime.charge_bytes(text->size());
    return static_cast<std::int64_t>(count_characters(text->text()));
  }
  if (const List* list = as_list(value)) return static_cast<std::int64_t>(list->items.size());
  if (const Dict* dict = as_dict(value)) return static_cast<std::int64_t>(dict->items.size());
  if (is_undefined(value)) return 0;
  runtime.fail(concat(type_name(value), " has no length"));
}

}  // namespace quire::text::jinja

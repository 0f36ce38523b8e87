#include "quire/base/error.h"
#include "quire/text/jinja_render.h"

namespace quire::text::jinja {

Value Renderer::evaluate(const Expression& expression) {
  using Kind = Expression::Kind;
  const Nesting nesting(*this);
  const auto part = [&](std::size_t i) { return evaluate(*expression.parts[i]); };
  switch (expression.kind) {
    case Kind::kConstant:
      return expression.constant;
    case Kind::kName:
      return evaluate_name(expression);
    case Kind::kList:
    case Kind::kTuple:
    case Kind::kDict:
      return evaluate_collection(expression);
    case Kind::kAttribute: {
      const Value object = part(0);
      runtime_.place = expression.place;
      return get_attribute(runtime_, object, expression.name);
    }
    case Kind::kSubscript: {
      const Value object = part(0), key = part(1);
      runtime_.place = expression.place;
      return get_item(runtime_, object, key);
    }
    case Kind::kSlice:
      return evaluate_slice(expression);
    case Kind::kCall:
      return evaluate_call(expression, nullptr);
    case Kind::kFilter:
      return evaluate_filter(expression, nullptr);
    case Kind::kTest: {
      const Value input = part(0);
      Arguments arguments = evaluate_arguments(expression, expression.name);
      runtime_.place = expression.place;
      return apply_test(runtime_, expression.name, input, arguments);
    }
    case Kind::kNot:
      return !is_true(part(0));
    case Kind::kNegative:
      return negate(runtime_, part(0));
    case Kind::kPositive:
      return negate(runtime_, negate(runtime_, part(0)));
    case Kind::kAnd:
    case Kind::kOr:
      return evaluate_logic(expression);
    case Kind::kArithmetic:
      return evaluate_arithmetic(expression);
    case Kind::kCompare:
      return evaluate_compare(expression);
    case Kind::kConcatenate: {
      OriginText out;
      for (std::size_t i = 0; i < expression.parts.size(); ++i) append_str(runtime_, out, part(i));
      return runtime_.text(std::move(out));
    }
    case Kind::kConditional:
      if (is_true(part(1))) return part(0);
      if (expression.parts[2] != nullptr) return part(2);
      return undefined("the inline if has no else and was false");
  }
  return Undefined{};
}

Value Renderer::evaluate_name(const Expression& expression) {
  if (const Value* value = scope_->find(expression.name)) return *value;
  return find_function(expression.name);
}

Value Renderer::evaluate_logic(const Expression& expression) {
  const bool stops_at = expression.kind == Expression::Kind::kOr;
  Value value;
  for (const ExpressionPtr& part : expression.parts) {
    value = evaluate(*part);
    if (is_true(value) == stops_at) break;
  }
  return value;
}

Value Renderer::evaluate_compare(const Expression& expression) {
  Value left = evaluate(*expression.parts[0]);
  for (std::size_t i = 0; i < expression.operators.size(); ++i) {
    Value right = evaluate(*expression.parts[i + 1]);
    runtime_.place = expression.place;
    if (!compare_by(runtime_, expression.operators[i], left, right)) return false;
    left = std::move(right);
  }
  return true;
}

Value Renderer::evaluate_arithmetic(const Expression& expression) {
  Value left = evaluate(*expression.parts[0]);
  for (std::size_t i = 0; i < expression.operators.size(); ++i) {
    const Value right = evaluate(*expression.parts[i + 1]);
    runtime_.place = expression.place;
    left = arithmetic(runtime_, expression.operators[i], left, right);
  }
  return left;
}

Value Renderer::evaluate_collection(const Expression& expression) {
  std::vector<Value> items;
  for (const ExpressionPtr& part : expression.parts) items.push_back(evaluate(*part));
  runtime_.place = expression.place;
  if (expression.kind == Expression::Kind::kList) return runtime_.list(std::move(items));
  if (expression.kind == Expression::Kind::kTuple)
    return runtime_.list(std::move(items), Sequence::kTuple);
  std::vector<std::pair<Value, Value>> members;
  for (std::size_t i = 0; i + 1 < items.size(); i += 2) {
    if (as_list(items[i]) != nullptr || as_dict(items[i]) != nullptr || is_undefined(items[i])) {
      runtime_.fail(concat(type_name(items[i]), " cannot be a key"));
    }
    bool replaced = false;
    for (auto& member : members) {
      if (!equal(runtime_, member.first, items[i])) continue;
      member.second = items[i + 1];
      replaced = true;
    }
    if (!replaced) members.emplace_back(items[i], items[i + 1]);
  }
  return runtime_.dict(std::move(members));
}

Value Renderer::evaluate_slice(const Expression& expression) {
  const Value object = evaluate(*expression.parts[0]);
  Value bounds[3];
  const Value* given[3] = {};
  for (std::size_t i = 0; i < 3; ++i) {
    if (expression.parts[i + 1] == nullptr) continue;
    bounds[i] = evaluate(*expression.parts[i + 1]);
    given[i] = &bounds[i];
  }
  runtime_.place = expression.place;
  return get_slice(runtime_, object, given[0], given[1], given[2]);
}

Arguments Renderer::evaluate_arguments(const Expression& expression, std::string_view function) {
  Arguments arguments(runtime_, function);
  for (std::size_t i = 1; i < expression.parts.size(); ++i) {
    arguments.positional.push_back(evaluate(*expression.parts[i]));
  }
  for (const auto& [name, value] : expression.named)
    arguments.named.emplace_back(name, evaluate(*value));
  return arguments;
}

Value Renderer::evaluate_filter(const Expression& expression, const Value* block) {
  const Nesting nesting(*this);
  const Expression* inner = expression.parts[0].get();
  // In a chain after a block the innermost filter has no input of its own: the block is it.
  const Value input = inner == nullptr ? *block
                      : block != nullptr && inner->kind == Expression::Kind::kFilter
                          ? evaluate_filter(*inner, block)
                          : evaluate(*inner);
  Arguments arguments = evaluate_arguments(expression, expression.name);
  runtime_.place = expression.place;
  return apply_filter(runtime_, expression.name, input, arguments);
}

Value Renderer::evaluate_call(const Expression& expression, const Callable* caller) {
  const Value function = evaluate(*expression.parts[0]);
  const auto* callable = get<std::shared_ptr<const Callable>>(function);
  const std::string name = callable != nullptr ? (*callable)->name : "call";
  Arguments arguments = evaluate_arguments(expression, name);
  runtime_.place = expression.place;
  if (const auto* missing = get<Undefined>(function)) runtime_.fail(*missing->why);
  if (callable == nullptr) runtime_.fail(concat(type_name(function), " cannot be called"));
  if (caller != nullptr) {
    if ((*callable)->macro == nullptr) runtime_.fail("a call block calls a macro");
    arguments.named.emplace_back("caller", std::make_shared<const Callable>(*caller));
  }
  return call(**callable, arguments);
}

Value Renderer::call(const Callable& callable, Arguments& arguments) {
  return callable.macro != nullptr ? call_macro(callable, arguments)
                                   : call_builtin(runtime_, callable, arguments);
}

Value Renderer::call_macro(const Callable& callable, Arguments& arguments) {
  const Nesting nesting(*this);
  if (call_depth_ >= runtime_.limits().depth) {
    runtime_.fail(concat("calls nested deeper than ", runtime_.limits().depth));
  }
  ++call_depth_;
  const Statement& macro = *callable.macro;
  OriginText out;
  {
    Inside inside(*this, callable.scope, &out);
    inside.scope.set("caller",
                     undefined("'caller' is undefined: the macro was not called by a call block"));
    for (std::size_t i = 0; i < macro.parameters.size(); ++i) {
      const auto& [name, otherwise] = macro.parameters[i];
      if (const Value* given = arguments.find(i, name)) {
        inside.scope.set(name, *given);
      } else {
        inside.scope.set(name, otherwise != nullptr
                                   ? evaluate(*otherwise)
                                   : undefined(concat("parameter '", name, "' was not provided")));
      }
    }
    if (const Value* caller = arguments.find(arguments.positional.size(), "caller")) {
      inside.scope.set("caller", *caller);
    }
    arguments.finish();
    run(macro.body);
  }
  --call_depth_;
  return runtime_.text(std::move(out));
}

}  // namespace quire::text::jinja

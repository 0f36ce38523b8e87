#include <algorithm>
#include <optional>

#include "quire/text/jinja_parser.h"

namespace quire::text::jinja {
namespace {

std::vector<ExpressionPtr> parts_of(ExpressionPtr first, ExpressionPtr second = nullptr) {
  std::vector<ExpressionPtr> parts;
  parts.push_back(std::move(first));
  if (second != nullptr) parts.push_back(std::move(second));
  return parts;
}

std::optional<Operator> comparison(std::string_view text) {
  if (text == "==") return Operator::kEqual;
  if (text == "!=") return Operator::kNotEqual;
  if (text == "<") return Operator::kLess;
  if (text == "<=") return Operator::kLessEqual;
  if (text == ">") return Operator::kGreater;
  if (text == ">=") return Operator::kGreaterEqual;
  return std::nullopt;
}

}  // namespace

ExpressionPtr Parser::make(Kind kind, std::vector<ExpressionPtr> parts) {
  auto out = std::make_unique<Expression>();
  out->kind = kind;
  out->place = parts.empty() || parts[0] == nullptr ? current().place : parts[0]->place;
  out->parts = std::move(parts);
  nest(*out);
  return out;
}

/// Keeps `outer.depth` one above the deepest part, and within the limit.
void Parser::nest(Expression& outer) {
  for (const ExpressionPtr& part : outer.parts) {
    if (part != nullptr) outer.depth = std::max(outer.depth, 1 + part->depth);
  }
  for (const auto& part : outer.named) outer.depth = std::max(outer.depth, 1 + part.second->depth);
  if (outer.depth > runtime_.limits().depth) {
    fail(concat("an expression nested deeper than ", runtime_.limits().depth));
  }
}

ExpressionPtr Parser::parse_tuple(Conditionals conditionals) {
  const auto element = [&] {
    return conditionals == Conditionals::kAllowed ? parse_expression() : parse_or();
  };
  ExpressionPtr first = element();
  if (!is_operator(",")) return first;
  std::vector<ExpressionPtr> parts = parts_of(std::move(first));
  while (skip_operator(",")) {
    if (is(TokenKind::kVariableEnd) || is(TokenKind::kBlockEnd) || is_operator(")")) break;
    parts.push_back(element());
  }
  return make(Kind::kTuple, std::move(parts));
}

ExpressionPtr Parser::parse_expression() {
  const Nesting nesting(*this);
  ExpressionPtr value = parse_or();
  while (skip_name("if")) {
    std::vector<ExpressionPtr> parts = parts_of(std::move(value), parse_or());
    parts.push_back(skip_name("else") ? parse_expression() : nullptr);
    value = make(Kind::kConditional, std::move(parts));
  }
  return value;
}

ExpressionPtr Parser::parse_or() {
  ExpressionPtr first = parse_and();
  if (!is_name("or")) return first;
  std::vector<ExpressionPtr> parts = parts_of(std::move(first));
  while (skip_name("or")) parts.push_back(parse_and());
  return make(Kind::kOr, std::move(parts));
}

ExpressionPtr Parser::parse_and() {
  ExpressionPtr first = parse_not();
  if (!is_name("and")) return first;
  std::vector<ExpressionPtr> parts = parts_of(std::move(first));
  while (skip_name("and")) parts.push_back(parse_not());
  return make(Kind::kAnd, std::move(parts));
}

ExpressionPtr Parser::parse_not() {
  const Nesting nesting(*this);
  if (skip_name("not")) return make(Kind::kNot, parts_of(parse_not()));
  return parse_compare();
}

ExpressionPtr Parser::parse_compare() {
  ExpressionPtr first = parse_sum();
  std::vector<ExpressionPtr> parts;
  std::vector<Operator> operators;
  while (true) {
    const std::optional<Operator> found =
        is(TokenKind::kOperator) ? comparison(current().text) : std::nullopt;
    if (found) {
      take();
      operators.push_back(*found);
    } else if (is_name("not") && next().kind == TokenKind::kName && next().text == "in") {
      take();
      take();
      operators.push_back(Operator::kNotIn);
    } else if (skip_name("in")) {
      operators.push_back(Operator::kIn);
    } else {
      break;
    }
    parts.push_back(parse_sum());
  }
  if (operators.empty()) return first;
  parts.insert(parts.begin(), std::move(first));
  ExpressionPtr out = make(Kind::kCompare, std::move(parts));
  out->operators = std::move(operators);
  return out;
}

ExpressionPtr Parser::parse_sum() {
  ExpressionPtr first = parse_concatenation();
  if (!is_operator("+") && !is_operator("-")) return first;
  std::vector<ExpressionPtr> parts = parts_of(std::move(first));
  std::vector<Operator> operators;
  while (is_operator("+") || is_operator("-")) {
    operators.push_back(take().text == "+" ? Operator::kAdd : Operator::kSubtract);
    parts.push_back(parse_concatenation());
  }
  ExpressionPtr out = make(Kind::kArithmetic, std::move(parts));
  out->operators = std::move(operators);
  return out;
}

ExpressionPtr Parser::parse_concatenation() {
  ExpressionPtr first = parse_product();
  if (!is_operator("~")) return first;
  std::vector<ExpressionPtr> parts = parts_of(std::move(first));
  while (skip_operator("~")) parts.push_back(parse_product());
  return make(Kind::kConcatenate, std::move(parts));
}

ExpressionPtr Parser::parse_product() {
  ExpressionPtr first = parse_power();
  std::vector<ExpressionPtr> parts;
  std::vector<Operator> operators;
  while (is_operator("*") || is_operator("/") || is_operator("//") || is_operator("%")) {
    const std::string text = take().text;
    operators.push_back(text == "*"    ? Operator::kMultiply
                        : text == "/"  ? Operator::kDivide
                        : text == "//" ? Operator::kFloorDivide
                                       : Operator::kModulo);
    parts.push_back(parse_power());
  }
  if (operators.empty()) return first;
  parts.insert(parts.begin(), std::move(first));
  ExpressionPtr out = make(Kind::kArithmetic, std::move(parts));
  out->operators = std::move(operators);
  return out;
}

ExpressionPtr Parser::parse_power() {
  ExpressionPtr left = parse_unary(Filters::kAllowed);
  while (skip_operator("**")) {
    left = make(Kind::kArithmetic, parts_of(std::move(left), parse_unary(Filters::kAllowed)));
    left->operators = {Operator::kPower};
  }
  return left;
}

ExpressionPtr Parser::parse_unary(Filters filters) {
  const Nesting nesting(*this);
  ExpressionPtr out;
  if (skip_operator("-")) {
    out = make(Kind::kNegative, parts_of(parse_unary(Filters::kRefused)));
  } else if (skip_operator("+")) {
    out = make(Kind::kPositive, parts_of(parse_unary(Filters::kRefused)));
  } else {
    out = parse_primary();
  }
  out = parse_postfix(std::move(out));
  return filters == Filters::kAllowed ? parse_filters(std::move(out)) : std::move(out);
}

ExpressionPtr Parser::parse_primary() {
  if (is_operator("(")) return parse_parentheses();
  if (is_operator("[")) return parse_list();
  if (is_operator("{")) return parse_dict();
  if (!is(TokenKind::kName)) return parse_literal();
  ExpressionPtr out = make(Kind::kConstant);
  const std::string name = take().text;
  if (name == "true" || name == "True") {
    out->constant = true;
  } else if (name == "false" || name == "False") {
    out->constant = false;
  } else if (name == "none" || name == "None") {
    out->constant = None{};
  } else {
    for (const std::string_view word :
         {"varargs", "kwargs", "self", "super", "cycler", "joiner", "lipsum"}) {
      if (name == word) fail(concat("\"", name, "\" is not supported"));
    }
    out->kind = Kind::kName;
    out->name = name;
  }
  return out;
}

ExpressionPtr Parser::parse_postfix(ExpressionPtr inner) {
  while (true) {
    if (is_operator(".") || is_operator("[")) {
      inner = parse_subscript(std::move(inner));
    } else if (is_operator("(")) {
      inner = make(Kind::kCall, parts_of(std::move(inner)));
      parse_arguments(*inner);
    } else {
      return inner;
    }
  }
}

ExpressionPtr Parser::parse_subscript(ExpressionPtr inner) {
  if (skip_operator(".")) {
    ExpressionPtr out = make(Kind::kAttribute, parts_of(std::move(inner)));
    if (is(TokenKind::kInteger)) {
      out->kind = Kind::kSubscript;
      out->parts.push_back(parse_literal());
    } else {
      out->name = expect_name();
    }
    return out;
  }
  expect_operator("[");
  ExpressionPtr begin, end, step;
  if (!is_operator(":")) {
    begin = parse_expression();
    if (skip_operator("]"))
      return make(Kind::kSubscript, parts_of(std::move(inner), std::move(begin)));
  }
  expect_operator(":");
  if (!is_operator("]") && !is_operator(":")) end = parse_expression();
  if (skip_operator(":") && !is_operator("]")) step = parse_expression();
  expect_operator("]");
  std::vector<ExpressionPtr> parts = parts_of(std::move(inner));
  parts.push_back(std::move(begin));
  parts.push_back(std::move(end));
  parts.push_back(std::move(step));
  return make(Kind::kSlice, std::move(parts));
}

void Parser::parse_arguments(Expression& call) {
  expect_operator("(");
  bool first = true;
  while (!skip_operator(")")) {
    if (!first) {
      expect_operator(",");
      if (skip_operator(")")) break;
    }
    first = false;
    if (is_operator("*") || is_operator("**")) fail("unpacked arguments are not supported");
    if (is(TokenKind::kName) && next().kind == TokenKind::kOperator && next().text == "=") {
      std::string name = take().text;
      for (const auto& other : call.named) {
        if (other.first == name) fail(concat("the argument \"", name, "\" is there twice"));
      }
      take();
      call.named.emplace_back(std::move(name), parse_expression());
    } else {
      if (!call.named.empty()) fail("a positional argument after a named one");
      call.parts.push_back(parse_expression());
    }
  }
  constexpr std::size_t kMostParts = 64;
  if (call.parts.size() + call.named.size() > kMostParts) fail("too many arguments");
  nest(call);
}

ExpressionPtr Parser::parse_filters(ExpressionPtr inner) {
  while (true) {
    if (skip_operator("|")) {
      inner = parse_filter(std::move(inner));
    } else if (is_name("is")) {
      inner = parse_test(std::move(inner));
    } else if (is_operator("(")) {
      inner = make(Kind::kCall, parts_of(std::move(inner)));
      parse_arguments(*inner);
    } else {
      return inner;
    }
  }
}

/// One filter, after its "|". `inner` may be null: the text of a block comes there.
ExpressionPtr Parser::parse_filter(ExpressionPtr inner) {
  const bool block = inner == nullptr;
  ExpressionPtr out = make(Kind::kFilter, parts_of(std::move(inner)));
  if (block) out->parts.resize(1);
  out->name = expect_name();
  if (!is_filter(out->name)) {
    --at_;
    fail(concat("unknown filter \"", out->name, "\""));
  }
  if (is_operator("(")) parse_arguments(*out);
  return out;
}

ExpressionPtr Parser::parse_filter_chain() {
  ExpressionPtr chain = parse_filter(nullptr);
  while (skip_operator("|")) chain = parse_filter(std::move(chain));
  return chain;
}

ExpressionPtr Parser::parse_test(ExpressionPtr inner) {
  take();
  const bool negated = skip_name("not");
  ExpressionPtr out = make(Kind::kTest, parts_of(std::move(inner)));
  out->name = expect_name();
  if (!is_test(out->name)) {
    --at_;
    fail(concat("unknown test \"", out->name, "\""));
  }
  if (is_operator("(")) {
    parse_arguments(*out);
  } else if (is(TokenKind::kString) || is(TokenKind::kInteger) || is(TokenKind::kFloat) ||
             is_operator("[") || is_operator("{") ||
             (is(TokenKind::kName) && !is_name("else") && !is_name("or") && !is_name("and"))) {
    if (is_name("is")) fail("tests cannot be chained");
    // A name that goes on with the outer expression ("x is defined if y", "… is in z") is no
    // argument of these tests.
    const bool takes_argument = !is_name("if") && !is_name("not") && !is_name("in");
    if (takes_argument) {
      ExpressionPtr argument = parse_primary();
      out->parts.push_back(parse_postfix(std::move(argument)));
      nest(*out);
    }
  }
  return negated ? make(Kind::kNot, parts_of(std::move(out))) : std::move(out);
}

}  // namespace quire::text::jinja

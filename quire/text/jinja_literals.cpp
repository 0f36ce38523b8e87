#include <charconv>

#include "quire/text/jinja_parser.h"

namespace quire::text::jinja {

ExpressionPtr Parser::parse_literal() {
  ExpressionPtr out = make(Kind::kConstant);
  if (is(TokenKind::kString)) {
    std::string text;
    while (is(TokenKind::kString)) text += take().text;
    out->constant = std::make_shared<const OriginText>(text, Origin::kTemplate);
    return out;
  }
  if (!is(TokenKind::kInteger) && !is(TokenKind::kFloat)) fail_here();
  const std::string& text = current().text;
  const char* end = text.data() + text.size();
  if (is(TokenKind::kInteger)) {
    std::int64_t value = 0;
    if (std::from_chars(text.data(), end, value).ec != std::errc())
      fail("an integer beyond 64 bits");
    out->constant = value;
  } else {
    double value = 0;
    if (std::from_chars(text.data(), end, value).ec != std::errc())
      fail("a number beyond a double");
    out->constant = value;
  }
  take();
  return out;
}

ExpressionPtr Parser::parse_parentheses() {
  expect_operator("(");
  if (skip_operator(")")) return make(Kind::kTuple);
  ExpressionPtr out = parse_tuple(Conditionals::kAllowed);
  expect_operator(")");
  return out;
}

ExpressionPtr Parser::parse_list() {
  expect_operator("[");
  std::vector<ExpressionPtr> parts;
  while (!skip_operator("]")) {
    if (!parts.empty()) {
      expect_operator(",");
      if (skip_operator("]")) break;
    }
    parts.push_back(parse_expression());
  }
  return make(Kind::kList, std::move(parts));
}

ExpressionPtr Parser::parse_dict() {
  expect_operator("{");
  std::vector<ExpressionPtr> parts;
  while (!skip_operator("}")) {
    if (!parts.empty()) {
      expect_operator(",");
      if (skip_operator("}")) break;
    }
    parts.push_back(parse_expression());
    expect_operator(":");
    parts.push_back(parse_expression());
  }
  return make(Kind::kDict, std::move(parts));
}

}  // namespace quire::text::jinja

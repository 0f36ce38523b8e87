#pragma once

#include <initializer_list>
#include <string_view>
#include <vector>

#include "quire/base/error.h"
#include "quire/text/jinja_ast.h"
#include "quire/text/jinja_lexer.h"

namespace quire::text::jinja {

/// Recursive descent over the tokens of a template.
/// Source: jinja2/parser.py (grammar only).
class Parser {
 public:
  Parser(std::vector<Token> tokens, Runtime& runtime)
      : tokens_(std::move(tokens)), runtime_(runtime) {}

  Body parse_template();

 private:
  class Nesting;
  enum class Conditionals { kAllowed, kRefused };
  enum class Filters { kAllowed, kRefused };
  using Kind = Expression::Kind;

  const Token& current() const { return tokens_[at_]; }
  const Token& next() const { return tokens_[at_ + 1 < tokens_.size() ? at_ + 1 : at_]; }
  Token take() { return tokens_[at_ + 1 < tokens_.size() ? at_++ : at_]; }
  bool is(TokenKind kind) const { return current().kind == kind; }
  bool is_operator(std::string_view text) const;
  bool is_name(std::string_view text) const;
  bool skip_operator(std::string_view text);
  bool skip_name(std::string_view text);
  void expect_operator(std::string_view text);
  std::string expect_name();
  void expect_block_end();
  [[noreturn]] void fail(std::string_view message);
  [[noreturn]] void fail_here();

  // Statements (jinja_parser.cpp).
  Body parse_body(std::initializer_list<std::string_view> ends);
  std::unique_ptr<Statement> parse_statement();
  std::unique_ptr<Statement> make_statement(Statement::Kind kind);
  void parse_for(Statement& out);
  void parse_if(Statement& out);
  void parse_set(Statement& out);
  void parse_macro(Statement& out);
  void parse_call_block(Statement& out);
  void parse_with(Statement& out);
  void parse_parameters(Statement& out);
  Target parse_target(bool with_namespace);
  void end_statement(std::string_view end);

  // Expressions (jinja_expressions.cpp).
  ExpressionPtr make(Kind kind, std::vector<ExpressionPtr> parts = {});
  void nest(Expression& outer);
  ExpressionPtr parse_tuple(Conditionals conditionals);
  ExpressionPtr parse_expression();
  ExpressionPtr parse_or();
  ExpressionPtr parse_and();
  ExpressionPtr parse_not();
  ExpressionPtr parse_compare();
  ExpressionPtr parse_sum();
  ExpressionPtr parse_concatenation();
  ExpressionPtr parse_product();
  ExpressionPtr parse_power();
  ExpressionPtr parse_unary(Filters filters);
  ExpressionPtr parse_primary();
  ExpressionPtr parse_literal();
  ExpressionPtr parse_parentheses();
  ExpressionPtr parse_list();
  ExpressionPtr parse_dict();
  ExpressionPtr parse_postfix(ExpressionPtr inner);
  ExpressionPtr parse_subscript(ExpressionPtr inner);
  ExpressionPtr parse_filters(ExpressionPtr inner);
  ExpressionPtr parse_filter(ExpressionPtr inner);
  ExpressionPtr parse_filter_chain();
  ExpressionPtr parse_test(ExpressionPtr inner);
  void parse_arguments(Expression& call);

  std::vector<Token> tokens_;
  Runtime& runtime_;
  std::size_t at_ = 0;
  int depth_ = 0;
  int loops_ = 0;  // for break and continue
};

/// Counts one level of nesting while it lives.
class Parser::Nesting {
 public:
  explicit Nesting(Parser& parser) : parser_(parser) {
    if (++parser_.depth_ > parser_.runtime_.limits().depth) {
      const int most = parser_.runtime_.limits().depth;
      parser_.fail(concat("nested deeper than ", most));
    }
  }
  ~Nesting() { --parser_.depth_; }
  Nesting(const Nesting&) = delete;
  Nesting& operator=(const Nesting&) = delete;

 private:
  Parser& parser_;
};

}  // namespace quire::text::jinja

#include "quire/text/jinja_parser.h"

#include <algorithm>

#include "quire/base/utf8.h"

namespace quire::text::jinja {

bool Parser::is_operator(std::string_view text) const {
  return is(TokenKind::kOperator) && current().text == text;
}
bool Parser::is_name(std::string_view text) const {
  return is(TokenKind::kName) && current().text == text;
}
bool Parser::skip_operator(std::string_view text) {
  if (!is_operator(text)) return false;
  ++at_;
  return true;
}
bool Parser::skip_name(std::string_view text) {
  if (!is_name(text)) return false;
  ++at_;
  return true;
}

void Parser::fail(std::string_view message) {
  runtime_.place = current().place;
  runtime_.fail(message);
}

void Parser::fail_here() {
  switch (current().kind) {
    case TokenKind::kEnd:
      fail("unexpected end of the template");
    case TokenKind::kBlockEnd:
    case TokenKind::kVariableEnd:
      fail("unexpected end of the tag");
    case TokenKind::kString:
      fail("unexpected string");
    default:
      fail(concat("unexpected \"", current().text, "\""));
  }
}

void Parser::expect_operator(std::string_view text) {
  if (!skip_operator(text)) fail(concat("expected \"", text, "\""));
}

std::string Parser::expect_name() {
  if (!is(TokenKind::kName)) fail("expected a name");
  return take().text;
}

void Parser::expect_block_end() {
  if (!is(TokenKind::kBlockEnd)) fail_here();
  take();
}

std::unique_ptr<Statement> Parser::make_statement(Statement::Kind kind) {
  auto out = std::make_unique<Statement>();
  out->kind = kind;
  out->place = current().place;
  return out;
}

Body Parser::parse_template() {
  Body body = parse_body({});
  if (!is(TokenKind::kEnd)) fail_here();
  return body;
}

/// Statements up to a block whose first word is one of `ends` (that block stays); or to the end of
/// the template.
Body Parser::parse_body(std::initializer_list<std::string_view> ends) {
  const Nesting nesting(*this);
  Body body;
  while (!is(TokenKind::kEnd)) {
    if (is(TokenKind::kData)) {
      auto data = make_statement(Statement::Kind::kData);
      data->text = std::make_shared<const OriginText>(current().text, Origin::kTemplate);
      take();
      body.push_back(std::move(data));
    } else if (is(TokenKind::kVariableBegin)) {
      take();
      auto print = make_statement(Statement::Kind::kPrint);
      print->value = parse_tuple(Conditionals::kAllowed);
      if (!is(TokenKind::kVariableEnd)) fail_here();
      take();
      body.push_back(std::move(print));
    } else {
      const Token& word = next();
      if (word.kind == TokenKind::kName &&
          std::find(ends.begin(), ends.end(), word.text) != ends.end()) {
        take();
        return body;
      }
      take();
      body.push_back(parse_statement());
    }
  }
  if (ends.size() > 0) fail(concat("the template ends before \"", *(ends.end() - 1), "\""));
  return body;
}

void Parser::end_statement(std::string_view end) {
  if (!skip_name(end)) fail_here();
  // Jinja allows the name of a macro after its end.
  if (end == "endmacro" && is(TokenKind::kName)) take();
  expect_block_end();
}

std::unique_ptr<Statement> Parser::parse_statement() {
  using StatementKind = Statement::Kind;
  if (!is(TokenKind::kName)) fail_here();
  auto out = make_statement(StatementKind::kGroup);
  const std::string word = current().text;
  if (word == "for") {
    parse_for(*out);
  } else if (word == "if") {
    parse_if(*out);
  } else if (word == "set") {
    parse_set(*out);
  } else if (word == "macro") {
    parse_macro(*out);
  } else if (word == "call") {
    parse_call_block(*out);
  } else if (word == "with") {
    parse_with(*out);
  } else if (word == "filter") {
    take();
    out->kind = StatementKind::kFilter;
    out->value = parse_filter_chain();
    expect_block_end();
    out->body = parse_body({"endfilter"});
    end_statement("endfilter");
  } else if (word == "generation") {
    take();
    expect_block_end();
    out->body = parse_body({"endgeneration"});
    end_statement("endgeneration");
  } else if (word == "break" || word == "continue") {
    if (loops_ == 0) fail(concat("\"", word, "\" outside of a loop"));
    take();
    out->kind = word == "break" ? StatementKind::kBreak : StatementKind::kContinue;
    expect_block_end();
  } else {
    fail(concat("unknown or unsupported tag \"", word, "\""));
  }
  return out;
}

void Parser::parse_for(Statement& out) {
  take();
  out.kind = Statement::Kind::kFor;
  out.target = parse_target(false);
  if (!skip_name("in")) fail("expected \"in\"");
  out.value = parse_tuple(Conditionals::kRefused);
  if (skip_name("if")) out.condition = parse_expression();
  if (is_name("recursive")) fail("recursive loops are not supported");
  expect_block_end();
  ++loops_;
  out.body = parse_body({"else", "endfor"});
  --loops_;
  if (skip_name("else")) {
    expect_block_end();
    out.otherwise = parse_body({"endfor"});
  }
  end_statement("endfor");
}

void Parser::parse_if(Statement& out) {
  // Each elif becomes an if in the else of the one before: a chain, not recursion.
  Statement* branch = &out;
  for (int elifs = 0;; ++elifs) {
    if (elifs > runtime_.limits().depth)
      fail(concat("more than ", runtime_.limits().depth, " elif"));
    take();
    branch->kind = Statement::Kind::kIf;
    branch->value = parse_tuple(Conditionals::kRefused);
    expect_block_end();
    branch->body = parse_body({"elif", "else", "endif"});
    if (!is_name("elif")) break;
    branch->otherwise.push_back(make_statement(Statement::Kind::kIf));
    branch = branch->otherwise.back().get();
  }
  if (skip_name("else")) {
    expect_block_end();
    branch->otherwise = parse_body({"endif"});
  }
  end_statement("endif");
}

void Parser::parse_set(Statement& out) {
  take();
  out.target = parse_target(true);
  if (skip_operator("=")) {
    out.kind = Statement::Kind::kSet;
    out.value = parse_tuple(Conditionals::kAllowed);
    expect_block_end();
    return;
  }
  out.kind = Statement::Kind::kSetBlock;
  if (out.target.unpack) fail_here();
  if (skip_operator("|")) out.value = parse_filter_chain();
  expect_block_end();
  out.body = parse_body({"endset"});
  end_statement("endset");
}

void Parser::parse_parameters(Statement& out) {
  expect_operator("(");
  while (!skip_operator(")")) {
    if (!out.parameters.empty()) {
      expect_operator(",");
      if (skip_operator(")")) break;
    }
    const std::string name = expect_name();
    for (const auto& parameter : out.parameters) {
      if (parameter.first == name) fail(concat("the parameter \"", name, "\" is there twice"));
    }
    const bool optional = skip_operator("=");
    if (!optional && !out.parameters.empty() && out.parameters.back().second != nullptr) {
      fail("a parameter without a default after one with");
    }
    out.parameters.emplace_back(name, optional ? parse_expression() : nullptr);
  }
}

void Parser::parse_macro(Statement& out) {
  take();
  out.kind = Statement::Kind::kMacro;
  out.name = expect_name();
  parse_parameters(out);
  expect_block_end();
  const int loops = std::exchange(loops_, 0);
  out.body = parse_body({"endmacro"});
  loops_ = loops;
  end_statement("endmacro");
}

void Parser::parse_call_block(Statement& out) {
  take();
  out.kind = Statement::Kind::kCallBlock;
  if (is_operator("(")) parse_parameters(out);
  out.value = parse_expression();
  if (out.value->kind != Expression::Kind::kCall) fail("expected a call");
  expect_block_end();
  const int loops = std::exchange(loops_, 0);
  out.body = parse_body({"endcall"});
  loops_ = loops;
  end_statement("endcall");
}

void Parser::parse_with(Statement& out) {
  take();
  out.kind = Statement::Kind::kWith;
  while (!is(TokenKind::kBlockEnd)) {
    if (!out.parameters.empty()) expect_operator(",");
    const std::string name = expect_name();
    expect_operator("=");
    out.parameters.emplace_back(name, parse_expression());
  }
  expect_block_end();
  out.body = parse_body({"endwith"});
  end_statement("endwith");
}

Target Parser::parse_target(bool with_namespace) {
  Target target;
  const bool parentheses = skip_operator("(");
  target.names.push_back(expect_name());
  if (with_namespace && !parentheses && skip_operator(".")) {
    target.attribute = expect_name();
    return target;
  }
  while (skip_operator(",")) {
    target.unpack = true;
    if (!is(TokenKind::kName) || is_name("in")) break;
    target.names.push_back(expect_name());
  }
  if (parentheses) expect_operator(")");
  for (const std::string& name : target.names) {
    for (const std::string_view word :
         {"true", "false", "none", "True", "False", "None", "not", "if", "else", "loop"}) {
      if (name == word) fail(concat("cannot assign to \"", name, "\""));
    }
  }
  return target;
}

Body parse(std::string_view source, Runtime& runtime) {
  if (source.size() > runtime.limits().source_bytes) {
    runtime.fail(concat("the source has ", std::uint64_t{source.size()}, " bytes, at most ",
                        std::uint64_t{runtime.limits().source_bytes}));
  }
  if (!is_utf8(source)) runtime.fail("the source is not UTF-8");
  return Parser(tokenize(source, runtime), runtime).parse_template();
}

}  // namespace quire::text::jinja

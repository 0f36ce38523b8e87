#pragma once

#include <string>
#include <utility>
#include <vector>

#include "quire/text/jinja_ast.h"
#include "quire/text/jinja_builtins.h"

namespace quire::text::jinja {

/// The variables of a block, and those around it. A scope lives on the stack of its block.
struct Scope {
  Scope* outer = nullptr;
  std::vector<std::pair<std::string, Value>> variables;

  void set(std::string_view name, Value value);
  const Value* find(std::string_view name) const;  // here or further out
};

/// Walks a parsed template.
class Renderer {
 public:
  Renderer(Runtime& runtime, Scope& variables) : runtime_(runtime), scope_(&variables) {}

  OriginText render(const Body& body);

 private:
  enum class Flow { kOn, kBreak, kContinue };
  class Nesting;
  class Inside;
  using Named = std::vector<std::pair<std::string, ExpressionPtr>>;

  // Statements (jinja_render.cpp).
  Flow run(const Body& body);
  Flow run(const Statement& statement);
  Flow run_for(const Statement& statement);
  Flow run_set_block(const Statement& statement);
  Flow run_scoped(const Statement& statement, OriginText* out);
  void call_block(const Statement& statement);
  void assign(const Target& target, Value value);

  // Expressions (jinja_evaluate.cpp).
  Value evaluate(const Expression& expression);
  Value evaluate_name(const Expression& expression);
  Value evaluate_logic(const Expression& expression);
  Value evaluate_compare(const Expression& expression);
  Value evaluate_arithmetic(const Expression& expression);
  Value evaluate_collection(const Expression& expression);
  Value evaluate_slice(const Expression& expression);
  Value evaluate_call(const Expression& expression, const Callable* caller);
  Value evaluate_filter(const Expression& expression, const Value* block);
  Value call(const Callable& callable, Arguments& arguments);
  Value call_macro(const Callable& callable, Arguments& arguments);
  Arguments evaluate_arguments(const Expression& expression, std::string_view function);

  Runtime& runtime_;
  Scope* scope_;
  OriginText* out_ = nullptr;
  int depth_ = 0;       // of statements and expressions inside each other, through calls too
  int call_depth_ = 0;  // of macros
};

/// Counts one level while it lives.
class Renderer::Nesting {
 public:
  explicit Nesting(Renderer& renderer);
  ~Nesting() { --renderer_.depth_; }
  Nesting(const Nesting&) = delete;
  Nesting& operator=(const Nesting&) = delete;

 private:
  Renderer& renderer_;
};

/// Works in a scope of its own, and into another output if there is one, while it lives.
class Renderer::Inside {
 public:
  Inside(Renderer& renderer, Scope* outer, OriginText* out);
  ~Inside();
  Inside(const Inside&) = delete;
  Inside& operator=(const Inside&) = delete;

  Scope scope;

 private:
  Renderer& renderer_;
  Scope* const previous_scope_;
  OriginText* const previous_out_;
};

}  // namespace quire::text::jinja

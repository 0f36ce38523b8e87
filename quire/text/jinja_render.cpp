#include "quire/text/jinja_render.h"

#include "quire/base/error.h"

namespace quire::text::jinja {

void Scope::set(std::string_view name, Value value) {
  for (auto& variable : variables) {
    if (variable.first == name) {
      variable.second = std::move(value);
      return;
    }
  }
  variables.emplace_back(name, std::move(value));
}

const Value* Scope::find(std::string_view name) const {
  for (const Scope* scope = this; scope != nullptr; scope = scope->outer) {
    for (const auto& variable : scope->variables) {
      if (variable.first == name) return &variable.second;
    }
  }
  return nullptr;
}

Renderer::Nesting::Nesting(Renderer& renderer) : renderer_(renderer) {
  // Source and calls are each bounded; their product would be too much for a stack.
  constexpr int kPerLevel = 8;
  renderer.runtime_.charge(1);
  const int most = renderer.runtime_.limits().depth * kPerLevel;
  if (renderer_.depth_ >= most) renderer.runtime_.fail(concat("nested deeper than ", most));
  ++renderer_.depth_;
}

Renderer::Inside::Inside(Renderer& renderer, Scope* outer, OriginText* out)
    : scope{outer, {}},
      renderer_(renderer),
      previous_scope_(renderer.scope_),
      previous_out_(renderer.out_) {
  renderer.scope_ = &scope;
  if (out != nullptr) renderer.out_ = out;
}

Renderer::Inside::~Inside() {
  renderer_.scope_ = previous_scope_;
  renderer_.out_ = previous_out_;
}

OriginText Renderer::render(const Body& body) {
  OriginText out;
  const Inside inside(*this, scope_, &out);
  run(body);
  return out;
}

Renderer::Flow Renderer::run(const Body& body) {
  for (const auto& statement : body) {
    if (const Flow flow = run(*statement); flow != Flow::kOn) return flow;
  }
  return Flow::kOn;
}

Renderer::Flow Renderer::run(const Statement& statement) {
  using Kind = Statement::Kind;
  const Nesting nesting(*this);
  runtime_.place = statement.place;
  switch (statement.kind) {
    case Kind::kData:
      runtime_.append(*out_, *statement.text);
      return Flow::kOn;
    case Kind::kPrint:
      append_str(runtime_, *out_, evaluate(*statement.value));
      return Flow::kOn;
    case Kind::kFor:
      return run_for(statement);
    case Kind::kIf:
      return run(is_true(evaluate(*statement.value)) ? statement.body : statement.otherwise);
    case Kind::kSet:
      assign(statement.target, evaluate(*statement.value));
      return Flow::kOn;
    case Kind::kSetBlock:
      return run_set_block(statement);
    case Kind::kMacro:
      scope_->set(statement.name, std::make_shared<const Callable>(
                                      Callable{statement.name, Undefined{}, &statement, scope_}));
      return Flow::kOn;
    case Kind::kCallBlock:
      call_block(statement);
      return Flow::kOn;
    case Kind::kFilter: {
      OriginText text;
      if (const Flow flow = run_scoped(statement, &text); flow != Flow::kOn) return flow;
      const Value block = runtime_.text(std::move(text));
      append_str(runtime_, *out_, evaluate_filter(*statement.value, &block));
      return Flow::kOn;
    }
    case Kind::kWith:
    case Kind::kGroup:
      return run_scoped(statement, nullptr);
    case Kind::kBreak:
      return Flow::kBreak;
    case Kind::kContinue:
      return Flow::kContinue;
  }
  return Flow::kOn;
}

Renderer::Flow Renderer::run_scoped(const Statement& statement, OriginText* out) {
  std::vector<Value> values;  // of `with`: all are evaluated outside
  for (const auto& parameter : statement.parameters) values.push_back(evaluate(*parameter.second));
  Inside inside(*this, scope_, out);
  for (std::size_t i = 0; i < values.size(); ++i) {
    inside.scope.set(statement.parameters[i].first, std::move(values[i]));
  }
  return run(statement.body);
}

Renderer::Flow Renderer::run_set_block(const Statement& statement) {
  OriginText text;
  if (const Flow flow = run_scoped(statement, &text); flow != Flow::kOn) return flow;
  Value value = runtime_.text(std::move(text));
  if (statement.value != nullptr) value = evaluate_filter(*statement.value, &value);
  assign(statement.target, std::move(value));
  return Flow::kOn;
}

void Renderer::call_block(const Statement& statement) {
  const Callable body{"caller", Undefined{}, &statement, scope_};
  append_str(runtime_, *out_, evaluate_call(*statement.value, &body));
}

void Renderer::assign(const Target& target, Value value) {
  if (!target.attribute.empty()) {
    const Value* space = scope_->find(target.names[0]);
    if (space == nullptr || get<Namespace*>(*space) == nullptr) {
      runtime_.fail(concat("\"", target.names[0], "\" is not a namespace"));
    }
    return runtime_.set_attribute(**get<Namespace*>(*space), target.attribute, std::move(value));
  }
  if (!target.unpack) {
    scope_->set(target.names[0], std::move(value));
    return;
  }
  const ListPtr items = iterate(runtime_, value);
  if (items->items.size() != target.names.size()) {
    runtime_.fail(concat("cannot unpack ", std::uint64_t{items->items.size()}, " values into ",
                         std::uint64_t{target.names.size()}, " names"));
  }
  for (std::size_t i = 0; i < items->items.size(); ++i)
    scope_->set(target.names[i], items->items[i]);
}

Renderer::Flow Renderer::run_for(const Statement& statement) {
  ListPtr items = iterate(runtime_, evaluate(*statement.value));
  if (statement.condition != nullptr) {
    std::vector<Value> kept;
    for (const Value& item : items->items) {
      const Inside inside(*this, scope_, nullptr);
      assign(statement.target, item);
      if (is_true(evaluate(*statement.condition))) kept.push_back(item);
    }
    items = std::get<ListPtr>(runtime_.list(std::move(kept)));
  }
  for (std::size_t i = 0; i < items->items.size(); ++i) {
    const Nesting nesting(*this);
    Inside inside(*this, scope_, nullptr);
    inside.scope.set("loop", std::make_shared<const Loop>(Loop{items, i}));
    assign(statement.target, items->items[i]);
    if (run(statement.body) == Flow::kBreak) break;
  }
  if (!items->items.empty()) return Flow::kOn;
  const Inside inside(*this, scope_, nullptr);
  return run(statement.otherwise);
}

}  // namespace quire::text::jinja

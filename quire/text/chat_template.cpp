#include "quire/text/chat_template.h"

#include <utility>

#include "quire/base/error.h"
#include "quire/text/jinja_ast.h"
#include "quire/text/jinja_render.h"
#include "quire/text/unicode.h"

namespace quire::text {
namespace {

using jinja::Runtime;
using jinja::Value;

/// Variables come from outside: their strings are data, except for those that the template may
/// count as its own.
Value to_value(Runtime& runtime, const Json& json, Origin origin, int depth) {
  if (depth > runtime.limits().depth) runtime.fail("variables nested too deep");
  if (json.is_null()) return jinja::None{};
  if (json.is_bool()) return json.as_bool();
  if (json.is_int()) return json.as_int();
  if (json.is_number()) return json.as_double();
  if (json.is_string()) {
    return std::make_shared<const OriginText>(to_utf8_lossy(json.as_string()), origin);
  }
  if (json.is_array()) {
    std::vector<Value> items;
    for (const Json& item : json.as_array())
      items.push_back(to_value(runtime, item, origin, depth + 1));
    return runtime.list(std::move(items));
  }
  std::vector<std::pair<Value, Value>> members;
  for (const auto& [name, member] : json.as_object()) {
    members.emplace_back(std::make_shared<const OriginText>(to_utf8_lossy(name), origin),
                         to_value(runtime, member, origin, depth + 1));
  }
  return runtime.dict(std::move(members));
}

}  // namespace

struct ChatTemplate::Impl {
  TemplateLimits limits;
  jinja::Body body;
};

ChatTemplate::ChatTemplate(std::string source, TemplateLimits limits)
    : impl_(std::make_unique<Impl>()) {
  Runtime runtime(limits);
  impl_->limits = limits;
  impl_->body = jinja::parse(source, runtime);
}

ChatTemplate::~ChatTemplate() = default;
ChatTemplate::ChatTemplate(ChatTemplate&&) noexcept = default;
ChatTemplate& ChatTemplate::operator=(ChatTemplate&&) noexcept = default;

std::vector<Piece> ChatTemplate::render(const Json& variables) const {
  Runtime runtime(impl_->limits);
  if (!variables.is_object()) runtime.fail("the variables must be an object");
  jinja::Scope scope;
  for (const auto& [name, value] : variables.as_object()) {
    const bool own = name == "bos_token" || name == "eos_token";
    scope.set(name, to_value(runtime, value, own ? Origin::kTemplate : Origin::kData, 0));
  }
  return jinja::Renderer(runtime, scope).render(impl_->body).pieces();
}

std::string to_text(const std::vector<Piece>& pieces) {
  std::string out;
  for (const Piece& piece : pieces) out += piece.text;
  return out;
}

}  // namespace quire::text

#pragma once

#include <cstdint>
#include <memory>
#include <string>
#include <utility>
#include <vector>

#include "quire/text/jinja_value.h"

namespace quire::text::jinja {

struct Expression;
struct Statement;
using ExpressionPtr = std::unique_ptr<Expression>;
using Body = std::vector<std::unique_ptr<Statement>>;

enum class Operator : std::uint8_t {
  kAdd,
  kSubtract,
  kMultiply,
  kDivide,
  kFloorDivide,
  kModulo,
  kPower,
  kEqual,
  kNotEqual,
  kLess,
  kLessEqual,
  kGreater,
  kGreaterEqual,
  kIn,
  kNotIn
};

/// An expression. Which fields count depends on the kind.
struct Expression {
  enum class Kind : std::uint8_t {
    kConstant,  // constant
    kName,      // name
    kList,      // parts; kTuple the same
    kTuple,
    kDict,       // parts: key, value, key, value …
    kAttribute,  // parts[0].name
    kSubscript,  // parts[0][parts[1]]
    kSlice,      // parts[0][parts[1]:parts[2]:parts[3]], null where absent
    kCall,       // parts[0](parts[1…], named…)
    kFilter,     // parts[0] | name(parts[1…], named…); parts[0] null in a filter block
    kTest,       // parts[0] is name(parts[1…], named…)
    kNot,
    kNegative,
    kPositive,
    kAnd,  // parts, left to right
    kOr,
    kArithmetic,   // parts[0] operators[0] parts[1] operators[1] …, left to right
    kCompare,      // a < b < c as Python has it
    kConcatenate,  // parts, joined as text
    kConditional   // parts[0] if parts[1] else parts[2] (null: undefined)
  };
  Kind kind;
  Place place;
  int depth = 1;
  std::string name;
  Value constant;
  std::vector<ExpressionPtr> parts;
  std::vector<std::pair<std::string, ExpressionPtr>> named;
  std::vector<Operator> operators;
};

/// What `for` and `set` assign to.
struct Target {
  std::vector<std::string> names;  // one, or several to unpack into
  bool unpack = false;
  std::string attribute;  // of the namespace names[0]
};

/// A statement. Which fields count depends on the kind.
struct Statement {
  enum class Kind : std::uint8_t {
    kData,       // text
    kPrint,      // value
    kFor,        // target, value, condition (may be null), body, otherwise
    kIf,         // value, body, otherwise (an elif is an if there)
    kSet,        // target, value
    kSetBlock,   // target, body, value (a chain of filters, or null)
    kMacro,      // name, parameters, body
    kCallBlock,  // value (a call), parameters, body
    kFilter,     // value (a chain of filters), body
    kWith,       // parameters and their values, body
    kGroup,      // body in a scope of its own (generation)
    kBreak,
    kContinue
  };
  Kind kind;
  Place place;
  std::string name;
  TextPtr text;
  Target target;
  ExpressionPtr value, condition;
  std::vector<std::pair<std::string, ExpressionPtr>> parameters;  // with their defaults, or null
  Body body, otherwise;
};

/// Parses a template. Throws FormatError with line and column for what it does not know.
Body parse(std::string_view source, Runtime& runtime);

/// The names of everything built in, so that unknown ones are refused when a template is read.
bool is_filter(std::string_view name);
bool is_test(std::string_view name);

}  // namespace quire::text::jinja

#pragma once

#include <cstddef>
#include <cstdint>
#include <string>
#include <string_view>
#include <utility>
#include <variant>
#include <vector>

namespace quire {

/// Bounds on JSON from outside; each ends in FormatError.
struct JsonLimits {
  std::size_t bytes = 100'000'000;
  int depth = 32;
  std::int64_t values = 10'000'000;
};

/// A JSON value. Objects keep the order of their keys. Integers that fit std::int64_t stay
/// integers.
class Json {
 public:
  using Array = std::vector<Json>;
  using Object = std::vector<std::pair<std::string, Json>>;

  Json() = default;                                             // null
  Json(std::nullptr_t) {}                                       // NOLINT: values convert on purpose
  Json(bool value) : value_(value) {}                           // NOLINT
  Json(int value) : value_(std::int64_t{value}) {}              // NOLINT
  Json(std::int64_t value) : value_(value) {}                   // NOLINT
  Json(std::uint64_t value);                                    // NOLINT
  Json(double value) : value_(value) {}                         // NOLINT
  Json(const char* value) : value_(std::string(value)) {}       // NOLINT
  Json(std::string_view value) : value_(std::string(value)) {}  // NOLINT
  Json(std::string value) : value_(std::move(value)) {}         // NOLINT
  Json(Array value) : value_(std::move(value)) {}               // NOLINT
  Json(Object value) : value_(std::move(value)) {}              // NOLINT

  /// Parses UTF-8 text. Throws FormatError(`source`, …) with line and column: not JSON, a duplicate
  /// key, trailing text, a byte-order mark, invalid UTF-8, or a limit.
  static Json parse(std::string_view text, std::string_view source, const JsonLimits& limits = {});

  /// Compact (indent < 0) or indented; UTF-8 is written as it is, invalid bytes as U+FFFD; NaN and
  /// infinities as null.
  std::string dump(int indent = -1) const;

  bool is_null() const { return std::holds_alternative<std::monostate>(value_); }
  bool is_bool() const { return std::holds_alternative<bool>(value_); }
  bool is_int() const { return std::holds_alternative<std::int64_t>(value_); }
  bool is_number() const { return is_int() || std::holds_alternative<double>(value_); }
  bool is_string() const { return std::holds_alternative<std::string>(value_); }
  bool is_array() const { return std::holds_alternative<Array>(value_); }
  bool is_object() const { return std::holds_alternative<Object>(value_); }

  /// These throw FormatError when the value is of another kind.
  bool as_bool() const;
  std::int64_t as_int() const;
  double as_double() const;
  const std::string& as_string() const;
  const Array& as_array() const;
  const Object& as_object() const;

  /// The member of an object, or null when absent or not an object.
  const Json* find(std::string_view key) const;
  /// Adds or replaces a member; a null value becomes an object first.
  Json& operator[](std::string_view key);
  void push_back(Json value);  // a null value becomes an array first

 private:
  std::variant<std::monostate, bool, std::int64_t, double, std::string, Array, Object> value_;
};

/// Receives JSON piece by piece in the text's order, for readers that build no value of it. A call
/// may throw to stop the reading.
class JsonEvents {
 public:
  virtual ~JsonEvents() = default;
  virtual void null() = 0;
  virtual void boolean(bool value) = 0;
  virtual void integer(std::int64_t value) = 0;
  virtual void real(double value) = 0;  // finite; also integers beyond std::int64_t
  virtual void text(std::string value) = 0;
  virtual void key(std::string name) = 0;
  virtual void begin_object() = 0;
  virtual void end_object() = 0;
  virtual void begin_array() = 0;
  virtual void end_array() = 0;
};

/// Parses as Json::parse does, with the same refusals. A duplicate key is refused at the end of its
/// object.
void read_json(std::string_view text, std::string_view source, JsonEvents& events,
               const JsonLimits& limits = {});

}  // namespace quire

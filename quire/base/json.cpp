#include "quire/base/json.h"

#include <algorithm>
#include <charconv>
#include <cmath>
#include <iterator>
#include <limits>
#include <nlohmann/json.hpp>
#include <optional>

#include "quire/base/error.h"
#include "quire/base/utf8.h"

namespace quire {
namespace {

/// "line 3, column 7: " of the byte before `read` bytes, then `message`; columns count bytes
/// from 1.
[[noreturn]] void fail_at(std::string_view text, std::string_view source, std::size_t read,
                          std::string_view message) {
  const std::string_view before = text.substr(0, read == 0 ? 0 : std::min(read, text.size()) - 1);
  const auto line = static_cast<std::uint64_t>(std::count(before.begin(), before.end(), '\n')) + 1;
  const std::size_t newline = before.rfind('\n');
  const std::uint64_t column =
      before.size() - (newline == std::string_view::npos ? 0 : newline + 1) + 1;
  throw FormatError(source, concat("line ", line, ", column ", column, ": ", message));
}

/// The parser's words without its prefix and without the text it quotes, which may be the whole
/// file.
std::string reason_of(std::string_view what) {
  const std::size_t dash = what.find(" - ");
  if (dash == std::string_view::npos) return "a number is out of range";
  std::string reason(what.substr(dash + 3));
  const std::size_t quote = reason.find("; last read: '");
  if (quote != std::string::npos) {
    const std::size_t expected = reason.rfind("'; expected ");
    const bool has_expected = expected != std::string::npos && expected > quote;
    reason = reason.substr(0, quote) + (has_expected ? reason.substr(expected + 1) : "");
  }
  return "not JSON: " + reason;
}

/// Walks the text and leaves behind how far the parser has read, which its events do not tell.
class CountingIterator {
 public:
  using iterator_category = std::input_iterator_tag;
  using value_type = char;
  using difference_type = std::ptrdiff_t;
  using pointer = const char*;
  using reference = const char&;

  CountingIterator(const char* at, const char** seen) : at_(at), seen_(seen) {}
  reference operator*() const { return *at_; }
  CountingIterator& operator++() {
    *seen_ = ++at_;
    return *this;
  }
  bool operator==(const CountingIterator& other) const { return at_ == other.at_; }
  bool operator!=(const CountingIterator& other) const { return at_ != other.at_; }

 private:
  const char* at_;
  const char** seen_;
};

/// Between the parser and the caller's events: limits and duplicate keys. The parser itself keeps
/// its nesting in a heap-allocated stack, and asks here before it enters another level.
class Guard {
 public:
  Guard(std::string_view text, std::string_view source, const JsonLimits& limits,
        JsonEvents& events, const char* const& seen)
      : text_(text), source_(source), limits_(limits), events_(events), seen_(seen) {}

  bool null() {
    return value([&] { events_.null(); });
  }
  bool boolean(bool x) {
    return value([&] { events_.boolean(x); });
  }
  bool number_integer(std::int64_t x) {
    return value([&] { events_.integer(x); });
  }
  bool number_unsigned(std::uint64_t x) {
    constexpr auto kMost = static_cast<std::uint64_t>(std::numeric_limits<std::int64_t>::max());
    if (x <= kMost) return number_integer(static_cast<std::int64_t>(x));
    return value([&] { events_.real(static_cast<double>(x)); });
  }
  bool number_float(double x, const std::string& /*digits*/) {
    return value([&] { events_.real(x); });
  }
  bool string(std::string& x) {
    return value([&] { events_.text(std::move(x)); });
  }
  bool binary(std::vector<std::uint8_t>& /*bytes*/) { return false; }  // no JSON text has one

  bool start_object(std::size_t /*size*/) {
    enter();
    return value([&] { events_.begin_object(); });
  }
  bool key(std::string& name) {
    open_.back().push_back({name, read()});
    events_.key(std::move(name));
    return true;
  }
  bool end_object() {
    refuse_duplicates(open_.back());
    open_.pop_back();
    events_.end_object();
    return true;
  }
  bool start_array(std::size_t /*size*/) {
    enter();
    return value([&] { events_.begin_array(); });
  }
  bool end_array() {
    open_.pop_back();
    events_.end_array();
    return true;
  }
  template <class Exception>
  [[noreturn]] bool parse_error(std::size_t position, const std::string& /*token*/,
                                const Exception& error) {
    fail_at(text_, source_, position, reason_of(error.what()));
  }

 private:
  struct Key {
    std::string name;
    std::size_t read;
  };

  std::size_t read() const { return static_cast<std::size_t>(seen_ - text_.data()); }

  void enter() {
    if (open_.size() >= static_cast<std::size_t>(std::max(limits_.depth, 0))) {
      fail_at(text_, source_, read(), concat("nested deeper than ", limits_.depth, " levels"));
    }
    open_.emplace_back();
  }

  template <class Call>
  bool value(const Call& call) {
    if (++values_ > limits_.values) {
      fail_at(text_, source_, read(), concat("more than ", limits_.values, " values"));
    }
    call();
    return true;
  }

  // Sorting instead of hashing: no choice of keys makes it slow.
  void refuse_duplicates(std::vector<Key>& keys) const {
    std::sort(keys.begin(), keys.end(), [](const Key& a, const Key& b) {
      return a.name != b.name ? a.name < b.name : a.read < b.read;
    });
    const auto same = [](const Key& a, const Key& b) { return a.name == b.name; };
    const auto twice = std::adjacent_find(keys.begin(), keys.end(), same);
    if (twice == keys.end()) return;
    std::string name = twice->name.substr(0, 100);
    fail_at(text_, source_, std::next(twice)->read, "key " + Json(name).dump() + " stands twice");
  }

  std::string_view text_;
  std::string_view source_;
  const JsonLimits& limits_;
  JsonEvents& events_;
  const char* const& seen_;
  std::vector<std::vector<Key>>
      open_;  // the keys of every object around this place; arrays have none
  std::int64_t values_ = 0;
};

/// Builds the value that the events describe.
class Builder final : public JsonEvents {
 public:
  void null() override { add(Json()); }
  void boolean(bool x) override { add(Json(x)); }
  void integer(std::int64_t x) override { add(Json(x)); }
  void real(double x) override { add(Json(x)); }
  void text(std::string x) override { add(Json(std::move(x))); }
  void key(std::string name) override { open_.back().key = std::move(name); }
  void begin_object() override { open_.push_back({true, {}, {}, {}}); }
  void begin_array() override { open_.push_back({false, {}, {}, {}}); }
  void end_object() override { close(); }
  void end_array() override { close(); }
  Json take() { return std::move(result_); }

 private:
  struct Level {
    bool is_object;
    std::string key;
    Json::Array array;
    Json::Object object;
  };

  void add(Json value) {
    if (open_.empty()) {
      result_ = std::move(value);
    } else if (open_.back().is_object) {
      open_.back().object.emplace_back(std::move(open_.back().key), std::move(value));
    } else {
      open_.back().array.push_back(std::move(value));
    }
  }
  void close() {
    Level level = std::move(open_.back());
    open_.pop_back();
    add(level.is_object ? Json(std::move(level.object)) : Json(std::move(level.array)));
  }

  std::vector<Level> open_;
  Json result_;
};

// ---- writing ----

void write_string(std::string& out, std::string_view text) {
  static constexpr char kHex[] = "0123456789abcdef";
  out += '"';
  while (!text.empty()) {
    const Utf8Step step = utf8_step(text);
    const auto byte = static_cast<unsigned char>(text.front());
    if (!step.well_formed) {
      out += "\xEF\xBF\xBD";  // U+FFFD
    } else if (byte == '"' || byte == '\\') {
      out += '\\';
      out += text.front();
    } else if (byte == '\n') {
      out += "\\n";
    } else if (byte == '\t') {
      out += "\\t";
    } else if (byte == '\r') {
      out += "\\r";
    } else if (byte < 0x20 || byte == 0x7F) {
      out += "\\u00";
      out += kHex[byte >> 4];
      out += kHex[byte & 15];
    } else {
      out += text.substr(0, step.bytes);
    }
    text.remove_prefix(step.bytes);
  }
  out += '"';
}

void write_double(std::string& out, double value) {
  if (!std::isfinite(value)) {
    out += "null";
    return;
  }
  char digits[32];
  const auto end = std::to_chars(digits, digits + sizeof digits, value).ptr;
  const std::string_view shortest(digits, static_cast<std::size_t>(end - digits));
  out += shortest;
  // So that it is read back as a double.
  if (shortest.find_first_of(".e") == std::string_view::npos) out += ".0";
}

void new_line(std::string& out, int indent, int level) {
  if (indent < 0) return;
  out += '\n';
  out.append(static_cast<std::size_t>(indent) * static_cast<std::size_t>(level), ' ');
}

void write_value(std::string& out, const Json& value, int indent, int level);

void write_object(std::string& out, const Json::Object& object, int indent, int level) {
  out += '{';
  bool first = true;
  for (const auto& [name, member] : object) {
    if (!std::exchange(first, false)) out += ',';
    new_line(out, indent, level + 1);
    write_string(out, name);
    out += indent < 0 ? ":" : ": ";
    write_value(out, member, indent, level + 1);
  }
  if (!first) new_line(out, indent, level);
  out += '}';
}

void write_array(std::string& out, const Json::Array& array, int indent, int level) {
  out += '[';
  bool first = true;
  for (const Json& item : array) {
    if (!std::exchange(first, false)) out += ',';
    new_line(out, indent, level + 1);
    write_value(out, item, indent, level + 1);
  }
  if (!first) new_line(out, indent, level);
  out += ']';
}

void write_value(std::string& out, const Json& value, int indent, int level) {
  if (value.is_null()) {
    out += "null";
  } else if (value.is_bool()) {
    out += value.as_bool() ? "true" : "false";
  } else if (value.is_int()) {
    out += concat(value.as_int());
  } else if (value.is_number()) {
    write_double(out, value.as_double());
  } else if (value.is_string()) {
    write_string(out, value.as_string());
  } else if (value.is_array()) {
    write_array(out, value.as_array(), indent, level);
  } else {
    write_object(out, value.as_object(), indent, level);
  }
}

const char* kind_of(const Json& value) {
  if (value.is_null()) return "null";
  if (value.is_bool()) return "a boolean";
  if (value.is_int()) return "an integer";
  if (value.is_number()) return "a number";
  if (value.is_string()) return "a string";
  return value.is_array() ? "an array" : "an object";
}

[[noreturn]] void wrong_kind(const char* expected, const Json& value) {
  throw FormatError(concat("expected ", expected, ", found ", kind_of(value)));
}

}  // namespace

void read_json(std::string_view text, std::string_view source, JsonEvents& events,
               const JsonLimits& limits) {
  if (text.size() > limits.bytes) {
    throw FormatError(source, concat("the text has ", std::uint64_t{text.size()},
                                     " bytes, the limit is ", std::uint64_t{limits.bytes}));
  }
  // The parser would skip a byte-order mark and take a NUL for the end of the text.
  if (text.substr(0, 3) == "\xEF\xBB\xBF") {
    fail_at(text, source, 1, "a byte-order mark; the text must begin with the JSON itself");
  }
  if (const std::size_t nul = text.find('\0'); nul != std::string_view::npos) {
    fail_at(text, source, nul + 1, "not JSON: a NUL byte");
  }
  const char* seen = text.data();
  Guard guard(text, source, limits, events, seen);
  const CountingIterator first(text.data(), &seen);
  const CountingIterator last(text.data() + text.size(), &seen);
  nlohmann::json::sax_parse(first, last, &guard);
}

Json::Json(std::uint64_t value) {
  constexpr auto kMost = static_cast<std::uint64_t>(std::numeric_limits<std::int64_t>::max());
  if (value <= kMost) {
    value_ = static_cast<std::int64_t>(value);
  } else {
    value_ = static_cast<double>(value);
  }
}

Json Json::parse(std::string_view text, std::string_view source, const JsonLimits& limits) {
  Builder builder;
  read_json(text, source, builder, limits);
  return builder.take();
}

std::string Json::dump(int indent) const {
  std::string out;
  write_value(out, *this, indent, 0);
  return out;
}

bool Json::as_bool() const {
  if (!is_bool()) wrong_kind("a boolean", *this);
  return std::get<bool>(value_);
}

std::int64_t Json::as_int() const {
  if (!is_int()) wrong_kind("an integer", *this);
  return std::get<std::int64_t>(value_);
}

double Json::as_double() const {
  if (is_int()) return static_cast<double>(std::get<std::int64_t>(value_));
  if (!is_number()) wrong_kind("a number", *this);
  return std::get<double>(value_);
}

const std::string& Json::as_string() const {
  if (!is_string()) wrong_kind("a string", *this);
  return std::get<std::string>(value_);
}

const Json::Array& Json::as_array() const {
  if (!is_array()) wrong_kind("an array", *this);
  return std::get<Array>(value_);
}

const Json::Object& Json::as_object() const {
  if (!is_object()) wrong_kind("an object", *this);
  return std::get<Object>(value_);
}

const Json* Json::find(std::string_view key) const {
  if (!is_object()) return nullptr;
  for (const auto& [name, member] : std::get<Object>(value_)) {
    if (name == key) return &member;
  }
  return nullptr;
}

Json& Json::operator[](std::string_view key) {
  if (is_null()) value_ = Object();
  QUIRE_CHECK(is_object(), "a member '", key, "' is set on a JSON value that is ", kind_of(*this));
  Object& object = std::get<Object>(value_);
  for (auto& [name, member] : object) {
    if (name == key) return member;
  }
  return object.emplace_back(std::string(key), Json()).second;
}

void Json::push_back(Json value) {
  if (is_null()) value_ = Array();
  QUIRE_CHECK(is_array(), "an item is added to a JSON value that is ", kind_of(*this));
  std::get<Array>(value_).push_back(std::move(value));
}

}  // namespace quire

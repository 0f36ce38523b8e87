#include <array>
#include <charconv>
#include <cstdlib>
#include <ctime>
#include <limits>

#include "quire/base/error.h"
#include "quire/text/jinja_builtins.h"

namespace quire::text::jinja {
namespace {

// What a sandboxed Jinja allows.
constexpr std::int64_t kLongestRange = 100'000;

Value make_range(Runtime& runtime, Arguments& arguments) {
  const bool one = arguments.find(1, "stop") == nullptr;
  arguments.need(0, "start");
  const std::int64_t begin = one ? 0 : arguments.integer(0, "start", 0);
  const std::int64_t end = one ? arguments.integer(0, "start", 0) : arguments.integer(1, "stop", 0);
  const std::int64_t step = arguments.integer(2, "step", 1);
  if (step == 0) runtime.fail("range with step 0");
  std::int64_t distance = 0;
  const bool overflow = step > 0 ? __builtin_sub_overflow(end, begin, &distance)
                                 : __builtin_sub_overflow(begin, end, &distance);
  const std::uint64_t stride =
      step > 0 ? static_cast<std::uint64_t>(step) : 0 - static_cast<std::uint64_t>(step);
  const std::uint64_t count =
      distance <= 0 ? 0 : (static_cast<std::uint64_t>(distance) - 1) / stride + 1;
  if (overflow || count > kLongestRange) {
    runtime.fail(concat("a range of more than ", kLongestRange, " numbers"));
  }
  std::vector<Value> items;
  for (std::uint64_t i = 0; i < count; ++i)
    items.emplace_back(begin + static_cast<std::int64_t>(i) * step);
  return runtime.list(std::move(items));
}

/// The time that a build or a test asks for, else now.
std::tm time_now(Runtime& runtime) {
  std::tm parts{};
  if (const char* epoch = std::getenv("SOURCE_DATE_EPOCH")) {
    std::int64_t seconds = 0;
    const std::string_view text = epoch;
    const auto parsed = std::from_chars(text.data(), text.data() + text.size(), seconds);
    if (parsed.ec != std::errc() || parsed.ptr != text.data() + text.size()) {
      runtime.fail("SOURCE_DATE_EPOCH is not a number of seconds");
    }
    const std::time_t time = seconds;
    if (gmtime_r(&time, &parts) == nullptr) runtime.fail("SOURCE_DATE_EPOCH is out of range");
    return parts;
  }
  const std::time_t time = std::time(nullptr);
  if (localtime_r(&time, &parts) == nullptr) runtime.fail("the time is out of range");
  return parts;
}

Value strftime_now(Runtime& runtime, Arguments& arguments) {
  // A leading mark tells an empty result from one that is too long.
  const std::string format = concat("x", arguments.text(0, "format").text());
  if (format.find('\0') != std::string::npos) runtime.fail("a time format with a NUL");
  // Widths ("%1000000Y") would make the C library write without end.
  for (std::size_t at = format.find('%'); at != std::string::npos; at = format.find('%', at + 2)) {
    constexpr std::string_view kConversions = "aAbBcdHIjmMpSUwWxXyYZzGuVFTDReehknrtCgsP%";
    const std::size_t letter = at + 1 < format.size() && format[at + 1] == '-' ? at + 2 : at + 1;
    if (letter >= format.size() || kConversions.find(format[letter]) == std::string_view::npos) {
      runtime.fail("an unknown conversion in a time format");
    }
  }
  const std::tm now = time_now(runtime);
  std::array<char, 1024> buffer;
  const std::size_t size = std::strftime(buffer.data(), buffer.size(), format.c_str(), &now);
  if (size == 0) runtime.fail("a time of more than 1023 bytes");
  return runtime.text(std::string_view(buffer.data() + 1, size - 1));
}

Value make_namespace(Runtime& runtime, Arguments& arguments) {
  Namespace* space = runtime.make_namespace();
  if (const Value* base = arguments.find(0, "")) {
    const Dict* dict = as_dict(*base);
    if (dict == nullptr) runtime.fail(concat("namespace() of ", type_name(*base)));
    for (const auto& [key, value] : dict->items) {
      if (as_text(key) == nullptr) runtime.fail("the names in a namespace are strings");
      runtime.set_attribute(*space, as_text(key)->text(), value);
    }
  }
  for (auto& [name, value] : arguments.named) runtime.set_attribute(*space, name, value);
  if (arguments.positional.size() > 1)
    runtime.fail("namespace() takes one positional argument at most");
  arguments.use_all();
  return space;
}

Value make_dict(Runtime& runtime, Arguments& arguments) {
  std::vector<std::pair<Value, Value>> items;
  if (const Value* base = arguments.find(0, "")) {
    const Dict* dict = as_dict(*base);
    if (dict == nullptr) runtime.fail(concat("dict() of ", type_name(*base), " is not supported"));
    items = dict->items;
  }
  if (arguments.positional.size() > 1) runtime.fail("dict() takes one positional argument at most");
  for (auto& [name, value] : arguments.named) {
    bool replaced = false;
    for (auto& item : items) {
      const OriginText* key = as_text(item.first);
      if (key == nullptr || key->text() != name) continue;
      item.second = value;
      replaced = true;
    }
    if (!replaced) items.emplace_back(runtime.text(name), value);
  }
  arguments.use_all();
  return runtime.dict(std::move(items));
}

}  // namespace

const Value* Arguments::find(std::size_t index, std::string_view name) {
  if (index < positional.size()) {
    if (index < 64) used_ |= std::uint64_t{1} << index;
    return &positional[index];
  }
  for (std::size_t i = 0; i < named.size(); ++i) {
    if (named[i].first != name || name.empty()) continue;
    if (positional.size() + i < 64) used_ |= std::uint64_t{1} << (positional.size() + i);
    return &named[i].second;
  }
  return nullptr;
}

const Value& Arguments::need(std::size_t index, std::string_view name) {
  const Value* value = find(index, name);
  if (value == nullptr)
    runtime_.fail(concat(function_, ": the argument \"", name, "\" is missing"));
  return *value;
}

const OriginText& Arguments::text(std::size_t index, std::string_view name) {
  const Value& value = need(index, name);
  if (as_text(value) == nullptr) {
    runtime_.fail(concat(function_, ": \"", name, "\" must be a string, not ", type_name(value)));
  }
  return *as_text(value);
}

std::int64_t Arguments::integer(std::size_t index, std::string_view name, std::int64_t otherwise) {
  const Value* value = find(index, name);
  if (value == nullptr) return otherwise;
  std::int64_t out = 0;
  if (!as_integer(*value, out)) {
    runtime_.fail(
        concat(function_, ": \"", name, "\" must be an integer, not ", type_name(*value)));
  }
  return out;
}

bool Arguments::boolean(std::size_t index, std::string_view name, bool otherwise) {
  const Value* value = find(index, name);
  return value == nullptr ? otherwise : is_true(*value);
}

void Arguments::finish() const {
  const std::size_t count = positional.size() + named.size();
  const std::uint64_t all = count >= 64 ? ~std::uint64_t{0} : (std::uint64_t{1} << count) - 1;
  if ((used_ & all) == all) return;
  for (std::size_t i = 0; i < named.size(); ++i) {
    if ((used_ >> (positional.size() + i) & 1) == 0) {
      runtime_.fail(concat(function_, ": unexpected argument \"", named[i].first, "\""));
    }
  }
  runtime_.fail(concat(function_, ": too many arguments"));
}

Value find_function(std::string_view name) {
  for (const std::string_view known :
       {"range", "namespace", "dict", "raise_exception", "strftime_now"}) {
    if (name == known) return std::make_shared<const Callable>(Callable{std::string(name)});
  }
  return undefined(concat("'", name, "' is undefined"));
}

Value call_builtin(Runtime& runtime, const Callable& callable, Arguments& arguments) {
  if (!is_undefined(callable.self)) return call_method(runtime, callable, arguments);
  const auto call = [&]() -> Value {
    if (callable.name == "range") return make_range(runtime, arguments);
    if (callable.name == "namespace") return make_namespace(runtime, arguments);
    if (callable.name == "dict") return make_dict(runtime, arguments);
    if (callable.name == "strftime_now") return strftime_now(runtime, arguments);
    runtime.fail(arguments.text(0, "message").text());  // raise_exception
  };
  Value result = call();
  arguments.finish();
  return result;
}

}  // namespace quire::text::jinja

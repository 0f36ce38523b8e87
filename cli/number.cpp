#include "cli/number.h"

#include <fmt/format.h>

#include <array>
#include <charconv>
#include <cmath>
#include <limits>
#include <optional>
#include <utility>

#include "quire/base/error.h"

namespace quire::cli {
namespace {

struct Unit {
  std::string_view name;
  std::int64_t factor;
};
constexpr std::array<Unit, 6> kUnits{{{"Ki", 1 << 10},
                                      {"Mi", 1 << 20},
                                      {"Gi", 1 << 30},
                                      {"k", 1'000},
                                      {"M", 1'000'000},
                                      {"G", 1'000'000'000}}};

/// The number that `text` is as a whole; nothing when it is none or does not fit.
template <class T>
std::optional<T> whole(std::string_view text) {
  T value{};
  const char* end = text.data() + text.size();
  const auto [stop, error] = std::from_chars(text.data(), end, value);
  if (error != std::errc() || stop != end || text.empty()) return std::nullopt;
  return value;
}

std::int64_t take_unit(std::string_view& text) {
  for (const Unit& unit : kUnits) {
    if (text.size() > unit.name.size() && text.ends_with(unit.name)) {
      text.remove_suffix(unit.name.size());
      return unit.factor;
    }
  }
  return 1;
}

std::string describe(IntegerRange range) {
  if (range.high == std::numeric_limits<std::int64_t>::max()) {
    return fmt::format("a whole number of at least {}", range.low);
  }
  return fmt::format("a whole number from {} to {}", range.low, range.high);
}

std::string describe(NumberRange range) {
  const bool open = range.high == std::numeric_limits<double>::max();
  const std::string low =
      range.above_low ? fmt::format("above {}", range.low) : fmt::format("at least {}", range.low);
  return open ? fmt::format("a number {}", low)
              : fmt::format("a number {} and at most {}", low, range.high);
}

[[noreturn]] void refuse(std::string_view option, std::string_view text,
                         const std::string& wanted) {
  throw ArgumentError(fmt::format("{} is '{}'; it must be {}", option, text, wanted));
}

}  // namespace

std::int64_t parse_integer(std::string_view option, std::string_view text, IntegerRange range,
                           Suffix suffix) {
  std::string_view digits = text;
  const std::int64_t factor = suffix == Suffix::kSize ? take_unit(digits) : 1;
  const auto value = whole<std::int64_t>(digits);
  std::int64_t product = 0;
  if (!value || __builtin_mul_overflow(*value, factor, &product) || product < range.low ||
      product > range.high) {
    refuse(option, text, describe(range));
  }
  return product;
}

std::uint64_t parse_unsigned(std::string_view option, std::string_view text) {
  const auto value = whole<std::uint64_t>(text);
  if (!value) refuse(option, text, "a whole number from 0 to 18446744073709551615");
  return *value;
}

double parse_number(std::string_view option, std::string_view text, NumberRange range) {
  const auto value = whole<double>(text);
  if (!value || !std::isfinite(*value) || *value < range.low || *value > range.high ||
      (range.above_low && *value == range.low)) {
    refuse(option, text, describe(range));
  }
  return *value;
}

double parse_percent(std::string_view option, std::string_view text) {
  const bool ends = text.ends_with('%');
  const auto value = whole<double>(text.substr(0, text.size() - (ends ? 1 : 0)));
  if (!ends || !value || !(*value > 0 && *value <= 100)) {
    refuse(option, text, "a number above 0% and at most 100%");
  }
  return *value / 100;
}

std::vector<std::int64_t> parse_integers(std::string_view option, std::string_view text,
                                         IntegerRange range) {
  std::vector<std::int64_t> values;
  for (std::string_view rest = text;;) {
    const std::size_t comma = rest.find(',');
    values.push_back(parse_integer(option, rest.substr(0, comma), range));
    if (comma == std::string_view::npos) return values;
    rest.remove_prefix(comma + 1);
  }
}

}  // namespace quire::cli

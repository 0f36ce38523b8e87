#pragma once

#include <cstdint>
#include <string>
#include <string_view>
#include <vector>

namespace quire::cli {

/// The whole numbers that an option takes, both ends included.
struct IntegerRange {
  std::int64_t low, high;
};

/// The finite numbers that an option takes, both ends included unless `above_low`.
struct NumberRange {
  double low, high;
  bool above_low = false;
};

/// Whether k, M, G (powers of 1000) and Ki, Mi, Gi (powers of 1024) may follow a number.
enum class Suffix : std::uint8_t { kNone, kSize };

/// The number that `text` is, as a whole and in decimal. Throws ArgumentError naming the option,
/// the text and the range.
std::int64_t parse_integer(std::string_view option, std::string_view text, IntegerRange range,
                           Suffix suffix = Suffix::kNone);
std::uint64_t parse_unsigned(std::string_view option, std::string_view text);
double parse_number(std::string_view option, std::string_view text, NumberRange range);
/// "12.5%" as .125: above 0% and at most 100%.
double parse_percent(std::string_view option, std::string_view text);

/// "0,7,100". Throws ArgumentError as parse_integer does, and for an empty part.
std::vector<std::int64_t> parse_integers(std::string_view option, std::string_view text,
                                         IntegerRange range);

}  // namespace quire::cli

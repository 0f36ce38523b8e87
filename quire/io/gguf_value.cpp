#include "quire/io/gguf_value.h"

#include <limits>
#include <string>
#include <vector>

#include "quire/base/checked.h"
#include "quire/base/error.h"

namespace quire::io {
namespace {

constexpr std::uint64_t kMostStringBytes = 64u << 20;
// Over all arrays of the header together: a string of 8 bytes in the file takes 32 here, a number
// of one byte takes 8.
constexpr std::uint64_t kMostArrayStrings = 2u << 20;
constexpr std::uint64_t kMostArrayNumbers = 4u << 20;

constexpr std::string_view kValueTypeNames[] = {
    "u8", "i8", "u16", "i16", "u32", "i32", "f32", "bool", "string", "array", "u64", "i64", "f64"};

/// Bytes of one value in the file; for a string, the least.
constexpr std::uint64_t kValueBytes[] = {1, 1, 2, 2, 4, 4, 4, 1, 8, 12, 8, 8, 8};

template <class T, class Next>
std::vector<T> read_elements(std::uint64_t count, const Next& next) {
  std::vector<T> out;
  out.reserve(static_cast<std::size_t>(count));
  for (std::uint64_t i = 0; i < count; ++i) out.push_back(next());
  return out;
}

}  // namespace

std::string_view gguf_value_type_name(std::uint32_t type) { return kValueTypeNames[type]; }

GgufValueReader::GgufValueReader(GgufCursor& in)
    : in_(in), strings_left_(kMostArrayStrings), numbers_left_(kMostArrayNumbers) {}

std::uint32_t GgufValueReader::read_type(std::string_view key, std::string_view what) {
  const std::uint64_t begin = in_.at();
  const auto type = in_.number<std::uint32_t>(what);
  if (type >= kValueTypes) {
    in_.fail(begin, concat("key ", shown(key), ": ", what, " is ", type, ", allowed are 0 to ",
                           kValueTypes - 1u));
  }
  return type;
}

GgufValue GgufValueReader::read_scalar(std::string_view key, std::uint32_t type) {
  constexpr std::string_view kWhat = "a value";
  switch (type) {
    case kU64: {
      const auto value = in_.number<std::uint64_t>(kWhat);
      if (value > static_cast<std::uint64_t>(std::numeric_limits<std::int64_t>::max()))
        return value;
      return static_cast<std::int64_t>(value);
    }
    case kF32:
    case kF64:
      return read_real(type);
    case kBool:
      return read_bool(key);
    case kString:
      return in_.text(kMostStringBytes, kWhat);
    default:
      return read_integer(key, type);
  }
}

double GgufValueReader::read_real(std::uint32_t type) {
  constexpr std::string_view kWhat = "a number";
  return type == kF32 ? double{in_.number<float>(kWhat)} : in_.number<double>(kWhat);
}

bool GgufValueReader::read_bool(std::string_view key) {
  const std::uint64_t begin = in_.at();
  const auto value = in_.number<std::uint8_t>("a boolean");
  if (value > 1) {
    in_.fail(begin, concat("key ", shown(key), ": a boolean is ", unsigned{value},
                           ", allowed are 0 and 1"));
  }
  return value == 1;
}

std::int64_t GgufValueReader::read_integer(std::string_view key, std::uint32_t type) {
  constexpr std::string_view kWhat = "an integer";
  const std::uint64_t begin = in_.at();
  switch (type) {
    case kU8:
      return in_.number<std::uint8_t>(kWhat);
    case kI8:
      return in_.number<std::int8_t>(kWhat);
    case kU16:
      return in_.number<std::uint16_t>(kWhat);
    case kI16:
      return in_.number<std::int16_t>(kWhat);
    case kU32:
      return in_.number<std::uint32_t>(kWhat);
    case kI32:
      return in_.number<std::int32_t>(kWhat);
    case kI64:
      return in_.number<std::int64_t>(kWhat);
    default:
      break;
  }
  const auto value = in_.number<std::uint64_t>(kWhat);
  constexpr auto kMost = static_cast<std::uint64_t>(std::numeric_limits<std::int64_t>::max());
  if (value > kMost) {
    in_.fail(begin, concat("key ", shown(key), ": an array has the number ", value,
                           ", allowed are at most ", kMost));
  }
  return static_cast<std::int64_t>(value);
}

GgufValue GgufValueReader::read_array(std::string_view key) {
  const std::uint64_t type_at = in_.at();
  const std::uint32_t type = read_type(key, "the type of an array's elements");
  if (type == kArray)
    in_.fail(type_at, concat("key ", shown(key), ": arrays of arrays are not supported"));
  const std::uint64_t count = read_array_count(key, type);
  if (type == kString) {
    return read_elements<std::string>(count,
                                      [&] { return in_.text(kMostStringBytes, "a string"); });
  }
  if (type == kBool) return read_elements<bool>(count, [&] { return read_bool(key); });
  if (type == kF32 || type == kF64) {
    return read_elements<double>(count, [&] { return read_real(type); });
  }
  return read_elements<std::int64_t>(count, [&] { return read_integer(key, type); });
}

std::uint64_t GgufValueReader::read_array_count(std::string_view key, std::uint32_t type) {
  const std::uint64_t begin = in_.at();
  const auto count = in_.number<std::uint64_t>("an array's length");
  const Checked bytes = Checked(count) * Checked(kValueBytes[type]);
  if (!bytes.at_most(in_.left())) {
    in_.fail(begin, concat("truncated: key ", shown(key), ": an array of ", count, " ",
                           kValueTypeNames[type], " does not fit the ", in_.left(), " bytes left"));
  }
  std::uint64_t& budget = type == kString ? strings_left_ : numbers_left_;
  if (count > budget) {
    in_.fail(begin, concat("key ", shown(key), ": an array has ", count,
                           " elements; all arrays together may have ", kMostArrayNumbers,
                           " numbers and ", kMostArrayStrings, " strings"));
  }
  budget -= count;
  return count;
}

}  // namespace quire::io

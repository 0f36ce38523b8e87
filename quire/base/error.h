#pragma once

#include <cstdint>
#include <stdexcept>
#include <string>
#include <string_view>

namespace quire {

/// The root of everything that Quire throws. `code()` is a stable word for machines ("argument",
/// "format", …); the text is for people and may change.
class Error : public std::runtime_error {
 public:
  using std::runtime_error::runtime_error;
  virtual const char* code() const noexcept { return "internal"; }
};

/// The caller broke a contract: the message names the argument and prints the values.
class ArgumentError : public Error {
 public:
  using Error::Error;
  const char* code() const noexcept override { return "argument"; }
};

/// A file or text is not what it must be: the message has the file, the byte offset where one is
/// known, what was found and what is allowed.
class FormatError : public Error {
 public:
  explicit FormatError(const std::string& message);
  FormatError(std::string_view file, std::string_view message);
  FormatError(std::string_view file, std::uint64_t offset, std::string_view message);
  const char* code() const noexcept override { return "format"; }
};

/// The operating system refused a file operation.
class IoError : public Error {
 public:
  /// `error_number` is an errno value; 0 leaves its text out.
  IoError(std::string_view file, std::string_view action, int error_number);
  const char* code() const noexcept override { return "io"; }
};

/// A device is absent, broken, or (OutOfMemory) too small.
class DeviceError : public Error {
 public:
  using Error::Error;
  const char* code() const noexcept override { return "device"; }
};

/// Memory that was asked for is not to be had; the message says how much.
class OutOfMemory : public DeviceError {
 public:
  using DeviceError::DeviceError;
  const char* code() const noexcept override { return "out_of_memory"; }
};

namespace detail {

inline void append(std::string& out, std::string_view part) { out += part; }
inline void append(std::string& out, char part) { out += part; }
void append(std::string& out, std::int64_t part);
void append(std::string& out, std::uint64_t part);
inline void append(std::string& out, int part) { append(out, std::int64_t{part}); }
inline void append(std::string& out, unsigned part) { append(out, std::uint64_t{part}); }
void append(std::string& out, double part);

}  // namespace detail

/// The parts, one after another, as text: strings, characters and numbers.
template <class... Parts>
std::string concat(const Parts&... parts) {
  std::string out;
  (detail::append(out, parts), ...);
  return out;
}

}  // namespace quire

/// Throws ArgumentError with the parts as its message unless `condition` holds.
#define QUIRE_CHECK(condition, ...)                                               \
  do {                                                                            \
    if (!(condition)) throw ::quire::ArgumentError(::quire::concat(__VA_ARGS__)); \
  } while (false)

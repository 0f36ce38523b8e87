#include "quire/base/error.h"

#include <fmt/format.h>

#include <cstring>

namespace quire {

FormatError::FormatError(const std::string& message) : Error(message) {}

FormatError::FormatError(std::string_view file, std::string_view message)
    : Error(fmt::format("{}: {}", file, message)) {}

FormatError::FormatError(std::string_view file, std::uint64_t offset, std::string_view message)
    : Error(fmt::format("{}: at byte {}: {}", file, offset, message)) {}

IoError::IoError(std::string_view file, std::string_view action, int error_number)
    : Error(error_number == 0
                ? fmt::format("{}: {}", file, action)
                : fmt::format("{}: {}: {}", file, action, std::strerror(error_number))) {}

namespace detail {

void append(std::string& out, std::int64_t part) { out += fmt::to_string(part); }
void append(std::string& out, std::uint64_t part) { out += fmt::to_string(part); }
void append(std::string& out, double part) { out += fmt::to_string(part); }

}  // namespace detail
}  // namespace quire

#pragma once

#include <cstdint>
#include <optional>
#include <string>
#include <string_view>
#include <vector>

namespace quire::cli {

/// The longest text that a command takes.
inline constexpr std::uint64_t kTextLimit = 256 << 20;

/// A file's bytes; "-" is standard input. Throws IoError; FormatError above kTextLimit.
std::string read_input(const std::string& path);

/// Whitespace-separated token ids, each in [0, vocabulary). Throws FormatError naming the `source`
/// and the first that is not.
std::vector<std::int32_t> parse_ids(std::string_view text, const std::string& source,
                                    std::int64_t vocabulary);

/// Lines of standard input as they arrive.
class Lines {
 public:
  /// The next line without its end; nothing at the end of the input or after a signal.
  /// Throws IoError; FormatError for a line above kTextLimit.
  std::optional<std::string> next();

 private:
  std::string buffer_;
  std::size_t begin_ = 0;     // of the next line
  std::size_t searched_ = 0;  // between begin_ and this is no line end
  bool ended_ = false;
};

}  // namespace quire::cli

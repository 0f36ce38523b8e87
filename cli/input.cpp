#include "cli/input.h"

#include <fmt/format.h>
#include <unistd.h>

#include <cerrno>
#include <charconv>

#include "cli/output.h"
#include "cli/signals.h"
#include "quire/base/error.h"
#include "quire/base/file_ops.h"

namespace quire::cli {
namespace {

constexpr std::size_t kPiece = 1 << 16;
constexpr std::string_view kSpace = " \t\r\n\v\f";

/// Appends what standard input has now. False at its end, or when a signal asked to stop.
bool read_piece(std::string& text) {
  const std::size_t before = text.size();
  for (;;) {
    if (stop_signal() != 0) return false;
    text.resize(before + kPiece);
    const ssize_t got = ::read(STDIN_FILENO, text.data() + before, kPiece);
    text.resize(before + (got > 0 ? static_cast<std::size_t>(got) : 0));
    if (got > 0) return true;
    if (got == 0) return false;
    if (errno != EINTR) throw IoError("standard input", "cannot read", errno);
  }
}

void limit(const std::string& text) {
  if (text.size() <= kTextLimit) return;
  throw FormatError("standard input", fmt::format("more than {} bytes of text", kTextLimit));
}

}  // namespace

std::string read_input(const std::string& path) {
  if (path != "-") return read_text(path, kTextLimit);
  if (input_is_terminal()) note("quire: reading the terminal; Ctrl-D on an empty line ends");
  std::string text;
  while (read_piece(text)) limit(text);
  return text;
}

std::vector<std::int32_t> parse_ids(std::string_view text, const std::string& source,
                                    std::int64_t vocabulary) {
  std::vector<std::int32_t> ids;
  for (;;) {
    const std::size_t begin = text.find_first_not_of(kSpace);
    if (begin == std::string_view::npos) return ids;
    text.remove_prefix(begin);
    const std::string_view word = text.substr(0, text.find_first_of(kSpace));
    std::int32_t id = -1;
    const char* end = word.data() + word.size();
    const auto [stop, error] = std::from_chars(word.data(), end, id);
    if (error != std::errc() || stop != end || id < 0 || id >= vocabulary) {
      throw FormatError(source,
                        fmt::format("token {} is '{}'; a token id of this model is a whole number "
                                    "from 0 to {}",
                                    ids.size(), word.substr(0, 40), vocabulary - 1));
    }
    ids.push_back(id);
    text.remove_prefix(word.size());
  }
}

std::optional<std::string> Lines::next() {
  for (;;) {
    const std::size_t end = buffer_.find('\n', searched_);
    if (end != std::string::npos || (ended_ && begin_ < buffer_.size())) {
      std::string line = buffer_.substr(begin_, end - begin_);
      begin_ = end == std::string::npos ? buffer_.size() : end + 1;
      searched_ = begin_;
      if (!line.empty() && line.back() == '\r') line.pop_back();
      return line;
    }
    if (ended_) return std::nullopt;
    buffer_.erase(0, begin_);
    begin_ = 0;
    searched_ = buffer_.size();
    limit(buffer_);
    ended_ = !read_piece(buffer_);
    if (stop_signal() != 0) return std::nullopt;
  }
}

}  // namespace quire::cli

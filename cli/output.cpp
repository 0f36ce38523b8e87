#include "cli/output.h"

#include <fcntl.h>
#include <sys/ioctl.h>
#include <unistd.h>

#include <algorithm>
#include <cerrno>
#include <csignal>
#include <cstdlib>
#include <span>
#include <string>

#include "quire/base/error.h"
#include "quire/base/file_ops.h"

namespace quire::cli {
namespace {

bool write_all(int file, std::string_view text) {
  while (!text.empty()) {
    const ssize_t put = ::write(file, text.data(), text.size());
    if (put < 0 && errno == EINTR) continue;
    if (put < 0) return false;
    text.remove_prefix(static_cast<std::size_t>(put));
  }
  return true;
}

std::string environment(const char* name) {
  const char* value = std::getenv(name);
  return value == nullptr ? std::string() : std::string(value);
}

/// As the C library decides: LC_ALL, then LC_CTYPE, then LANG.
bool speaks_utf8() {
  for (const char* name : {"LC_ALL", "LC_CTYPE", "LANG"}) {
    std::string value = environment(name);
    if (value.empty()) continue;
    std::transform(value.begin(), value.end(), value.begin(), [](char c) {
      return c >= 'A' && c <= 'Z' ? static_cast<char>(c - 'A' + 'a') : c;
    });
    return value.find("utf-8") != std::string::npos || value.find("utf8") != std::string::npos;
  }
  return false;
}

}  // namespace

void print(std::string_view text) {
  if (write_all(STDOUT_FILENO, text)) return;
  if (errno == EPIPE) throw OutputClosed{};
  throw IoError("standard output", "cannot write", errno);
}

std::string harmless(std::string text) {
  for (char& c : text) {
    if (static_cast<unsigned char>(c) < 0x20 || c == 0x7f) c = ' ';
  }
  return text;
}

void print_json(const Json& object) { print(object.dump() + "\n"); }

void write_error(std::string_view text) { static_cast<void>(write_all(STDERR_FILENO, text)); }

void note(std::string_view line) { write_error(std::string(line) + "\n"); }

namespace {

/// What a file of the kind is called where one is missing, and whether these are its first 9 bytes.
struct Kind {
  const char* name;
  bool (*is_begun_by)(std::string_view first);
};

Kind kind_of(FileKind kind) {
  switch (kind) {
    case FileKind::kSavedCache:
      return {"saved cache", [](std::string_view first) { return first.starts_with("QUIREKV\n"); }};
    case FileKind::kSafetensors:
      return {"safetensors file",
              [](std::string_view first) { return first.size() == 9 && first.back() == '{'; }};
    case FileKind::kSvg:
      break;
  }
  return {"SVG figure", [](std::string_view first) { return first.starts_with("<svg "); }};
}

}  // namespace

void check_output(const std::string& option, const std::string& path, FileKind kind) {
  QUIRE_CHECK(!path.empty(), option, " is ''; it must be a file");
  const std::size_t slash = path.rfind('/');
  const std::string folder = slash == std::string::npos ? "." : path.substr(0, slash + 1);
  if (::access(folder.c_str(), W_OK | X_OK) != 0) {
    throw IoError(path, "cannot create a file there", errno);
  }
  if (!file_ops().exists(path)) return;
  const auto file = file_ops().open(path);
  for (const FolderEntry& entry : file_ops().list(folder)) {
    QUIRE_CHECK(entry.name != path.substr(slash + 1) || entry.is_writable, option, ": ", path,
                " is write-protected; it is not overwritten");
  }
  if (file->size() == 0) return;
  std::string first(std::min<std::uint64_t>(file->size(), 9), '\0');
  file->read_at(0, std::as_writable_bytes(std::span(first)));
  const Kind wanted = kind_of(kind);
  QUIRE_CHECK(wanted.is_begun_by(first), option, ": ", path, " exists and is no ", wanted.name,
              "; it is not overwritten");
}

Terminal error_terminal() {
  Terminal terminal;
  terminal.present = ::isatty(STDERR_FILENO) == 1;
  const std::string kind = environment("TERM");
  terminal.plain =
      !environment("NO_COLOR").empty() || kind.empty() || kind == "dumb" || !speaks_utf8();
  winsize size{};
  if (::ioctl(STDERR_FILENO, TIOCGWINSZ, &size) == 0 && size.ws_col > 0) {
    terminal.columns = size.ws_col;
  }
  return terminal;
}

bool output_is_terminal() { return ::isatty(STDOUT_FILENO) == 1; }
bool input_is_terminal() { return ::isatty(STDIN_FILENO) == 1; }

void prepare_standard_files() {
  for (const int file : {STDIN_FILENO, STDOUT_FILENO, STDERR_FILENO}) {
    if (::fcntl(file, F_GETFD) != 0 && errno == EBADF) {
      static_cast<void>(::open("/dev/null", O_RDWR));  // the lowest free number: this one
    }
  }
  std::signal(SIGPIPE, SIG_IGN);
}

}  // namespace quire::cli

#include "quire/io/gguf_cursor.h"

#include <algorithm>
#include <bit>
#include <cstring>

#include "quire/base/checked.h"
#include "quire/base/error.h"
#include "quire/base/utf8.h"

namespace quire::io {
namespace {

static_assert(std::endian::native == std::endian::little, "GGUF is read as it lies in the file");

constexpr std::uint64_t kMostHeaderBytes = 128u << 20;
constexpr std::uint64_t kWindowBytes = 1u << 20;

}  // namespace

std::string shown(std::string_view text) {
  std::string out = "'";
  for (const char c : text.substr(0, 80)) out += c >= ' ' && c <= '~' ? c : '?';
  out += text.size() > 80 ? "…'" : "'";
  return out;
}

std::optional<std::string> fault_of_name(std::string_view text) {
  if (text.empty()) return "is empty";
  if (!is_utf8(text)) return "is not UTF-8";
  const auto is_control = [](char c) { return static_cast<unsigned char>(c) < 0x20 || c == 0x7F; };
  if (std::any_of(text.begin(), text.end(), is_control)) return "has a control character";
  return std::nullopt;
}

void GgufCursor::fail(std::uint64_t offset, std::string_view message) const {
  throw FormatError(file_.path(), offset, message);
}

std::string GgufCursor::text(std::uint64_t limit, std::string_view what) {
  const std::uint64_t begin = at();
  const auto length = number<std::uint64_t>(what);
  if (length > left()) {
    fail(begin, concat("truncated: ", what, " has a length of ", length, " bytes, the file has ",
                       left(), " left"));
  }
  if (length > limit) {
    fail(begin, concat(what, " has a length of ", length, " bytes, allowed are ", limit));
  }
  need(length, what);
  std::string out(static_cast<std::size_t>(length), '\0');
  copy(std::as_writable_bytes(std::span(out)));
  return out;
}

void GgufCursor::need(std::uint64_t bytes, std::string_view what) const {
  if (bytes > left()) {
    fail(at(),
         concat("truncated: ", what, " needs ", bytes, " bytes, the file has ", left(), " left"));
  }
  // A sparse file would otherwise keep the reader busy for terabytes.
  if (!(Checked(at()) + Checked(bytes)).at_most(kMostHeaderBytes)) {
    fail(at(), concat("the header goes on after ", kMostHeaderBytes, " bytes, which is the limit"));
  }
}

void GgufCursor::copy(std::span<std::byte> out) {
  while (!out.empty()) {
    if (used_ == window_.size()) refill();
    const std::size_t part = std::min(out.size(), window_.size() - used_);
    std::memcpy(out.data(), window_.data() + used_, part);
    used_ += part;
    out = out.subspan(part);
  }
}

// Only called with bytes left in the file: need() came first.
void GgufCursor::refill() {
  window_begin_ += used_;
  used_ = 0;
  window_.resize(static_cast<std::size_t>(std::min(size_ - window_begin_, kWindowBytes)));
  file_.read_at(window_begin_, window_);
}

}  // namespace quire::io

#include <algorithm>
#include <string>

#include "quire/io/gguf_header.h"

namespace quire::io {
namespace {

using namespace std::string_view_literals;

struct Magic {
  std::string_view bytes;
  std::string_view kind;
};

constexpr Magic kMagics[] = {
    {"FUGG"sv, "a byte-swapped GGUF file (big-endian); convert it to little-endian"},
    {"PK\x03\x04"sv, "a zip archive"},
    {"\x80\x02"sv, "a PyTorch checkpoint or other Python pickle; convert it to GGUF"},
    {"\x80\x03"sv, "a Python pickle"},
    {"\x80\x04"sv, "a Python pickle"},
    {"\x80\x05"sv, "a Python pickle"},
    {"lmgg"sv, "a GGML file from before GGUF; convert it again"},
    {"fmgg"sv, "a GGML file from before GGUF; convert it again"},
    {"tjgg"sv, "a GGML file from before GGUF; convert it again"},
    {"version https://git-lfs"sv,
     "a Git LFS pointer, not the file itself; fetch it with git lfs pull"},
    {"\x1f\x8b"sv, "a gzip archive; unpack it"},
    {"\x28\xb5\x2f\xfd"sv, "a zstd archive; unpack it"},
    {"\xfd"
     "7zXZ"sv,
     "an xz archive; unpack it"},
    {"\x89HDF"sv, "an HDF5 file"},
    {"\x7f"
     "ELF"sv,
     "a program"},
    {"{"sv, "a JSON text"},
};

bool looks_like_html(std::string_view text) {
  const std::size_t begin = text.find_first_not_of(" \t\r\n");
  if (begin == std::string_view::npos) return false;
  std::string head(text.substr(begin, 16));
  std::transform(head.begin(), head.end(), head.begin(),
                 [](char c) { return c >= 'A' && c <= 'Z' ? static_cast<char>(c + 32) : c; });
  return head.starts_with("<!doctype") || head.starts_with("<html") || head.starts_with("<?xml");
}

/// Eight bytes of a plausible little-endian length, then the header's brace.
bool looks_like_safetensors(std::string_view text) {
  return text.size() >= 9 && text[8] == '{' && text.substr(4, 4) == "\0\0\0\0"sv;
}

}  // namespace

std::string_view likely_kind(std::string_view first_bytes) {
  if (first_bytes.empty()) return "an empty file";
  if (looks_like_safetensors(first_bytes)) return "a safetensors file";
  if (looks_like_html(first_bytes)) return "an HTML page, perhaps of a failed download";
  if (first_bytes.starts_with("PK\x03\x04") &&
      first_bytes.find("data.pkl") != std::string_view::npos) {
    return "a PyTorch checkpoint; convert it to GGUF";
  }
  for (const Magic& magic : kMagics) {
    if (first_bytes.starts_with(magic.bytes)) return magic.kind;
  }
  return "";
}

}  // namespace quire::io

#include "quire/io/safetensors_header.h"

#include <algorithm>
#include <bit>
#include <cstring>
#include <limits>
#include <numeric>

#include "quire/base/checked.h"
#include "quire/base/error.h"
#include "quire/base/json.h"

namespace quire::io {
namespace {

static_assert(std::endian::native == std::endian::little,
              "safetensors are read as they lie in the file");

using Entry = SafetensorsFile::Entry;

constexpr std::uint64_t kMostHeaderBytes = 100'000'000;  // the format's own limit
constexpr std::size_t kMostTensors = 262'144;
constexpr std::size_t kMostRank = 16;
constexpr std::size_t kMostMetadataBytes = 16u << 20;
constexpr int kMostDepth = 8;  // three are needed; more only lets the messages name what is wrong

struct DTypeName {
  DType dtype;
  std::string_view name;
};

constexpr DTypeName kDTypes[] = {
    {DType::kF64, "F64"}, {DType::kF32, "F32"},   {DType::kBF16, "BF16"}, {DType::kF16, "F16"},
    {DType::kI64, "I64"}, {DType::kI32, "I32"},   {DType::kI16, "I16"},   {DType::kI8, "I8"},
    {DType::kU8, "U8"},   {DType::kBool, "BOOL"},
};

/// Text from the file, made fit for a message: short, and in printable ASCII.
std::string shown(std::string_view text) {
  std::string out = "'";
  for (const char c : text.substr(0, 80)) out += c >= ' ' && c <= '~' ? c : '?';
  out += text.size() > 80 ? "…'" : "'";
  return out;
}

/// What the header says of one tensor, before it is believed.
struct Claim {
  std::optional<DType> dtype;
  std::optional<Shape> shape;
  std::vector<std::int64_t> data_offsets;
  bool has_offsets = false;
};

/// Follows the header's events through its one allowed form: {name: {"dtype": s, "shape": [n…],
/// "data_offsets": [n, n]}…,
/// "__metadata__": {s: s…}}. Builds nothing else, so the memory it takes is that of the entries.
class HeaderEvents final : public JsonEvents {
 public:
  HeaderEvents(const std::string& path, SafetensorsHeader& header) : path_(path), header_(header) {}

  void null() override { unexpected("null"); }
  void boolean(bool) override { unexpected("a boolean"); }
  void real(double) override { unexpected("a number that is not a whole one below 2^63"); }

  void integer(std::int64_t value) override {
    if (place_ == Place::kShape) {
      if (value < 0) fail(concat("a size in its shape is ", value));
      if (claim_.shape->size() == kMostRank) fail(concat("its rank is above ", int{kMostRank}));
      claim_.shape->push_back(value);
    } else if (place_ == Place::kOffsets) {
      if (value < 0 || claim_.data_offsets.size() == 2) unexpected("something else");
      claim_.data_offsets.push_back(value);
    } else {
      unexpected("a number");
    }
  }

  void text(std::string value) override {
    if (place_ == Place::kMetadata) {
      metadata_bytes_ += field_.size() + value.size();
      if (metadata_bytes_ > kMostMetadataBytes) {
        throw FormatError(path_, concat("__metadata__ has more than ",
                                        std::uint64_t{kMostMetadataBytes}, " bytes"));
      }
      header_.metadata.emplace(field_, std::move(value));
    } else if (place_ == Place::kEntry && field_ == "dtype") {
      set_dtype(value);
    } else {
      unexpected("a string");
    }
  }

  void key(std::string name) override {
    if (place_ == Place::kTop) {
      name_ = std::move(name);
    } else {
      field_ = std::move(name);
      const bool known = field_ == "dtype" || field_ == "shape" || field_ == "data_offsets";
      if (place_ == Place::kEntry && !known) fail(concat("unknown field ", shown(field_)));
    }
  }

  void begin_object() override {
    if (place_ == Place::kStart) {
      place_ = Place::kTop;
    } else if (place_ == Place::kTop) {
      place_ = name_ == "__metadata__" ? Place::kMetadata : Place::kEntry;
      claim_ = {};
    } else {
      unexpected("an object");
    }
  }

  void end_object() override {
    if (place_ == Place::kEntry) finish_entry();
    place_ = Place::kTop;
  }

  void begin_array() override {
    if (place_ == Place::kEntry && field_ == "shape") {
      place_ = Place::kShape;
      claim_.shape.emplace();
    } else if (place_ == Place::kEntry && field_ == "data_offsets") {
      place_ = Place::kOffsets;
      claim_.has_offsets = true;
    } else {
      unexpected("an array");
    }
  }

  void end_array() override { place_ = Place::kEntry; }

 private:
  enum class Place { kStart, kTop, kMetadata, kEntry, kShape, kOffsets };

  [[noreturn]] void fail(const std::string& message) const {
    throw FormatError(path_, concat("tensor ", shown(name_), ": ", message));
  }

  [[noreturn]] void unexpected(std::string_view found) const {
    switch (place_) {
      case Place::kStart:
        throw FormatError(path_, concat("the header is ", found, ", it must be an object"));
      case Place::kTop:
        fail(concat("the entry is ", found, ", it must be an object"));
      case Place::kMetadata:
        throw FormatError(
            path_, concat("__metadata__ ", shown(field_), " is ", found, ", it must be a string"));
      case Place::kShape:
        fail(concat("its shape has ", found, ", allowed are whole numbers from 0"));
      case Place::kOffsets:
        fail("its data_offsets must be two whole numbers from 0");
      case Place::kEntry:
        break;
    }
    fail(concat("its field ", shown(field_), " is ", found));
  }

  void set_dtype(std::string_view name) {
    for (const DTypeName& known : kDTypes) {
      if (known.name == name) claim_.dtype = known.dtype;
    }
    if (!claim_.dtype) {
      fail(concat("dtype ", shown(name),
                  " is not supported, allowed are F64 F32 BF16 F16 I64 I32 I16 I8 U8 BOOL"));
    }
  }

  void finish_entry() {
    if (!claim_.dtype) fail("dtype is missing");
    if (!claim_.shape) fail("shape is missing");
    if (!claim_.has_offsets) fail("data_offsets is missing");
    if (claim_.data_offsets.size() != 2) unexpected_offsets();
    if (header_.entries.size() == kMostTensors) {
      throw FormatError(path_, concat("more than ", std::uint64_t{kMostTensors}, " tensors"));
    }
    const auto begin = static_cast<std::uint64_t>(claim_.data_offsets[0]);
    const auto end = static_cast<std::uint64_t>(claim_.data_offsets[1]);
    if (begin > end)
      fail(concat("its data_offsets are ", begin, " and ", end, ", the second must not be below"));
    const std::uint64_t bytes = bytes_of_shape();
    if (bytes != end - begin) {
      fail(concat("its shape and dtype make ", bytes, " bytes, its data_offsets ", end - begin));
    }
    header_.entries.push_back({name_, *claim_.dtype, std::move(*claim_.shape), begin, bytes});
  }

  [[noreturn]] void unexpected_offsets() const {
    fail("its data_offsets must be two whole numbers from 0");
  }

  // Zeros count as one in the overflow check, so that none can hide an overflow behind it.
  std::uint64_t bytes_of_shape() const {
    Checked bytes = std::uint64_t{size_of(*claim_.dtype)};
    bool empty = false;
    for (const std::int64_t size : *claim_.shape) {
      bytes = bytes * Checked(static_cast<std::uint64_t>(std::max<std::int64_t>(size, 1)));
      empty = empty || size == 0;
    }
    if (!bytes.at_most(static_cast<std::uint64_t>(std::numeric_limits<std::int64_t>::max()))) {
      fail("the product of its shape overflows");
    }
    return empty ? 0 : *bytes.value();
  }

  const std::string& path_;
  SafetensorsHeader& header_;
  Place place_ = Place::kStart;
  std::string name_, field_;
  Claim claim_;
  std::size_t metadata_bytes_ = 0;
};

std::uint64_t read_header_bytes(const File& file) {
  if (file.size() < 8) {
    throw FormatError(
        file.path(), 0,
        concat("truncated: a safetensors file has at least 10 bytes, this one has ", file.size()));
  }
  std::uint64_t bytes = 0;
  file.read_at(0, std::as_writable_bytes(std::span(&bytes, 1)));
  if (bytes > kMostHeaderBytes) {
    throw FormatError(file.path(), 0,
                      concat("not a safetensors file: its header would have ", bytes,
                             " bytes, allowed are ", kMostHeaderBytes));
  }
  if (bytes > file.size() - 8) {
    throw FormatError(file.path(), 0,
                      concat("truncated: the header has ", bytes, " bytes, the file has ",
                             file.size() - 8, " after its length"));
  }
  return bytes;
}

/// The data of all tensors, in the order of their offsets, must fill the rest of the file: nothing
/// hides between or behind.
void check_tiling(const File& file, const std::vector<Entry>& entries, std::uint64_t data_bytes) {
  std::vector<std::uint32_t> order(entries.size());
  std::iota(order.begin(), order.end(), 0u);
  std::sort(order.begin(), order.end(), [&](std::uint32_t a, std::uint32_t b) {
    const Entry &x = entries[a], &y = entries[b];
    return x.offset != y.offset ? x.offset < y.offset : x.bytes < y.bytes;
  });
  std::uint64_t running = 0;
  for (const std::uint32_t i : order) {
    const Entry& entry = entries[i];
    if (entry.bytes > data_bytes || entry.offset > data_bytes - entry.bytes) {
      throw FormatError(file.path(), concat("truncated: tensor ", shown(entry.name), " has ",
                                            entry.bytes, " bytes from ", entry.offset,
                                            " of the data, the file has ", data_bytes));
    }
    if (entry.offset != running) {
      throw FormatError(
          file.path(),
          concat("tensor ", shown(entry.name), ": its data begin at ", entry.offset, ", ",
                 entry.offset < running ? "overlapping data that end at " : "leaving a hole from ",
                 running));
    }
    running += entry.bytes;
  }
  if (running != data_bytes) {
    throw FormatError(
        file.path(), concat("the file has ", data_bytes - running, " bytes after the last tensor"));
  }
}

void index_names(SafetensorsHeader& header) {
  header.by_name.resize(header.entries.size());
  std::iota(header.by_name.begin(), header.by_name.end(), 0u);
  std::sort(header.by_name.begin(), header.by_name.end(), [&](std::uint32_t a, std::uint32_t b) {
    return header.entries[a].name < header.entries[b].name;
  });
}

}  // namespace

SafetensorsHeader read_safetensors_header(const File& file) {
  const std::uint64_t header_bytes = read_header_bytes(file);
  std::string text(static_cast<std::size_t>(header_bytes), '\0');
  file.read_at(8, std::as_writable_bytes(std::span(text)));
  if (!text.starts_with('{')) {
    throw FormatError(file.path(), 8, "not a safetensors file: its header must begin with '{'");
  }
  SafetensorsHeader header;
  HeaderEvents events(file.path(), header);
  JsonLimits limits;
  limits.depth = kMostDepth;
  read_json(text, concat(file.path(), ": header"), events, limits);
  const std::uint64_t data_begin = 8 + header_bytes;
  check_tiling(file, header.entries, file.size() - data_begin);
  for (Entry& entry : header.entries) entry.offset += data_begin;
  index_names(header);
  return header;
}

std::string_view safetensors_dtype_name(DType dtype) {
  for (const DTypeName& known : kDTypes) {
    if (known.dtype == dtype) return known.name;
  }
  return "?";
}

}  // namespace quire::io

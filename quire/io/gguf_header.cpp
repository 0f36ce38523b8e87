#include "quire/io/gguf_header.h"

#include <algorithm>
#include <bit>
#include <cstring>
#include <limits>
#include <numeric>
#include <optional>

#include "quire/base/checked.h"
#include "quire/base/error.h"
#include "quire/base/utf8.h"

namespace quire::io {
namespace {

static_assert(std::endian::native == std::endian::little, "GGUF is read as it lies in the file");

constexpr std::uint64_t kMostKeys = 65'536;
constexpr std::uint64_t kMostTensors = 262'144;
constexpr std::uint64_t kMostKeyBytes = 65'535;
constexpr std::uint64_t kMostStringBytes = 64u << 20;
constexpr std::uint64_t kMostHeaderBytes = 128u << 20;
// Over all arrays of the header together: a string of 8 bytes in the file takes 32 here, a number
// of one byte takes 8.
constexpr std::uint64_t kMostArrayStrings = 2u << 20;
constexpr std::uint64_t kMostArrayNumbers = 4u << 20;
constexpr std::uint64_t kMostAlignment = 1u << 20;
constexpr std::uint64_t kMostNameBytes = 63;
constexpr std::uint32_t kMostDims = 4;
// The least that a key with a value, or a tensor's entry, takes in the file.
constexpr std::uint64_t kLeastPairBytes = 8 + 1 + 4 + 1;
constexpr std::uint64_t kLeastTensorBytes = 8 + 1 + 4 + 8 + 4 + 8;

enum ValueType : std::uint32_t {
  kU8,
  kI8,
  kU16,
  kI16,
  kU32,
  kI32,
  kF32,
  kBool,
  kString,
  kArray,
  kU64,
  kI64,
  kF64,
  kValueTypes
};

constexpr std::string_view kValueTypeNames[] = {
    "u8", "i8", "u16", "i16", "u32", "i32", "f32", "bool", "string", "array", "u64", "i64", "f64"};

/// Bytes of one value in the file; for a string, the least.
constexpr std::uint64_t kValueBytes[] = {1, 1, 2, 2, 4, 4, 4, 1, 8, 12, 8, 8, 8};

/// Text from the file, made fit for a message: short, and in printable ASCII.
std::string shown(std::string_view text) {
  std::string out = "'";
  for (const char c : text.substr(0, 80)) out += c >= ' ' && c <= '~' ? c : '?';
  out += text.size() > 80 ? "…'" : "'";
  return out;
}

std::optional<std::string> fault_of_text(std::string_view text) {
  if (text.empty()) return "is empty";
  if (!is_utf8(text)) return "is not UTF-8";
  const auto is_control = [](char c) { return static_cast<unsigned char>(c) < 0x20 || c == 0x7F; };
  if (std::any_of(text.begin(), text.end(), is_control)) return "has a control character";
  return std::nullopt;
}

/// Reads forward through the file, a bounded window at a time, and knows where it is.
class Cursor {
 public:
  explicit Cursor(const File& file) : file_(file), size_(file.size()) {}

  std::uint64_t at() const { return window_begin_ + used_; }
  std::uint64_t left() const { return size_ - at(); }

  [[noreturn]] void fail(std::uint64_t offset, std::string_view message) const {
    throw FormatError(file_.path(), offset, message);
  }

  template <class T>
  T number(std::string_view what) {
    T value;
    need(sizeof value, what);
    copy(std::as_writable_bytes(std::span(&value, 1)));
    return value;
  }

  /// `what` is only looked at when the reading fails.
  std::string text(std::uint64_t limit, std::string_view what) {
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

 private:
  static constexpr std::uint64_t kWindowBytes = 1u << 20;

  void need(std::uint64_t bytes, std::string_view what) const {
    if (bytes > left()) {
      fail(at(),
           concat("truncated: ", what, " needs ", bytes, " bytes, the file has ", left(), " left"));
    }
    // A sparse file would otherwise keep the reader busy for terabytes.
    if (!(Checked(at()) + Checked(bytes)).at_most(kMostHeaderBytes)) {
      fail(at(),
           concat("the header goes on after ", kMostHeaderBytes, " bytes, which is the limit"));
    }
  }

  void copy(std::span<std::byte> out) {
    while (!out.empty()) {
      if (used_ == window_.size()) refill();
      const std::size_t part = std::min(out.size(), window_.size() - used_);
      std::memcpy(out.data(), window_.data() + used_, part);
      used_ += part;
      out = out.subspan(part);
    }
  }

  // Only called with bytes left in the file: need() came first.
  void refill() {
    window_begin_ += used_;
    used_ = 0;
    window_.resize(static_cast<std::size_t>(std::min(size_ - window_begin_, kWindowBytes)));
    file_.read_at(window_begin_, window_);
  }

  const File& file_;
  std::uint64_t size_;
  std::uint64_t window_begin_ = 0;
  std::size_t used_ = 0;
  std::vector<std::byte> window_;
};

/// The header's sections, in the file's order.
class HeaderReader {
 public:
  explicit HeaderReader(const File& file) : file_(file), in_(file) {}

  GgufHeader read() {
    read_magic();
    read_version();
    const std::uint64_t tensors =
        read_count("the number of tensors", kMostTensors, kLeastTensorBytes);
    const std::uint64_t pairs = read_count("the number of keys", kMostKeys, kLeastPairBytes);
    header_.metadata.reserve(static_cast<std::size_t>(pairs));
    header_.value_offset.reserve(static_cast<std::size_t>(pairs));
    for (std::uint64_t i = 0; i < pairs; ++i) read_pair();
    index_keys();
    refuse_split();
    header_.tensors.reserve(static_cast<std::size_t>(tensors));
    entry_offset_.reserve(static_cast<std::size_t>(tensors));
    for (std::uint64_t i = 0; i < tensors; ++i) read_tensor();
    index_tensors();
    place_tensors();
    return std::move(header_);
  }

 private:
  void read_magic() {
    std::string head(static_cast<std::size_t>(std::min<std::uint64_t>(file_.size(), 256)), '\0');
    file_.read_at(0, std::as_writable_bytes(std::span(head)));
    const std::string_view magic = "GGUF";
    if (head.starts_with(magic)) {
      in_.number<std::uint32_t>("the magic");
      return;
    }
    if (!head.empty() && magic.starts_with(head)) {
      in_.fail(0,
               concat("truncated: a GGUF file has at least 24 bytes, this one has ", file_.size()));
    }
    const std::string_view kind = likely_kind(head);
    in_.fail(0, concat("not a GGUF file: it must begin with 'GGUF', found ",
                       head.empty() ? "nothing" : shown(head.substr(0, 4)),
                       kind.empty() ? "" : "; it looks like ", kind));
  }

  void read_version() {
    const std::uint64_t begin = in_.at();
    header_.version = in_.number<std::uint32_t>("the version");
    if (header_.version == 2 || header_.version == 3) return;
    if (header_.version != 0 && (header_.version & 0xFFFFu) == 0) {
      in_.fail(begin, concat("the version is ", header_.version,
                             ": the file is in the other byte order (big-endian), only "
                             "little-endian files are supported"));
    }
    in_.fail(begin,
             concat("GGUF version ", header_.version, " is not supported, allowed are 2 and 3"));
  }

  std::uint64_t read_count(std::string_view what, std::uint64_t limit, std::uint64_t least_bytes) {
    const std::uint64_t begin = in_.at();
    const auto count = in_.number<std::uint64_t>(what);
    if (count > limit)
      in_.fail(begin, concat(what, " is ", count, ", allowed are at most ", limit));
    if (!(Checked(count) * Checked(least_bytes)).at_most(in_.left())) {
      in_.fail(begin, concat("truncated: ", what, " is ", count, ", which takes at least ",
                             count * least_bytes, " bytes, the file has ", in_.left(), " left"));
    }
    return count;
  }

  void read_pair() {
    const std::uint64_t begin = in_.at();
    std::string key = in_.text(kMostKeyBytes, "a key");
    if (const auto fault = fault_of_text(key)) {
      in_.fail(begin, concat("the key ", shown(key), " ", *fault));
    }
    const std::uint64_t type_at = in_.at();
    const std::uint32_t type = read_type(key, "the value's type");
    const std::uint64_t value_at = in_.at();
    if (key == "general.alignment") read_alignment(type_at, type, value_at);
    GgufValue value = key == "general.alignment" ? GgufValue(std::int64_t{header_.alignment})
                      : type == kArray           ? read_array(key)
                                                 : read_scalar(key, type);
    header_.metadata.emplace_back(std::move(key), std::move(value));
    header_.value_offset.push_back(value_at);
  }

  std::uint32_t read_type(std::string_view key, std::string_view what) {
    const std::uint64_t begin = in_.at();
    const auto type = in_.number<std::uint32_t>(what);
    if (type >= kValueTypes) {
      in_.fail(begin, concat("key ", shown(key), ": ", what, " is ", type, ", allowed are 0 to ",
                             kValueTypes - 1u));
    }
    return type;
  }

  void read_alignment(std::uint64_t type_at, std::uint32_t type, std::uint64_t value_at) {
    if (type != kU32) {
      in_.fail(type_at,
               concat("general.alignment has type ", kValueTypeNames[type], ", it must be u32"));
    }
    header_.alignment = in_.number<std::uint32_t>("general.alignment");
    if (!std::has_single_bit(header_.alignment) || header_.alignment < 8 ||
        header_.alignment > kMostAlignment) {
      in_.fail(value_at, concat("general.alignment is ", header_.alignment,
                                ", allowed are powers of two from 8 to ", kMostAlignment));
    }
  }

  GgufValue read_scalar(std::string_view key, std::uint32_t type) {
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

  double read_real(std::uint32_t type) {
    constexpr std::string_view kWhat = "a number";
    return type == kF32 ? double{in_.number<float>(kWhat)} : in_.number<double>(kWhat);
  }

  bool read_bool(std::string_view key) {
    const std::uint64_t begin = in_.at();
    const auto value = in_.number<std::uint8_t>("a boolean");
    if (value > 1) {
      in_.fail(begin, concat("key ", shown(key), ": a boolean is ", unsigned{value},
                             ", allowed are 0 and 1"));
    }
    return value == 1;
  }

  std::int64_t read_integer(std::string_view key, std::uint32_t type) {
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

  GgufValue read_array(std::string_view key) {
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

  std::uint64_t read_array_count(std::string_view key, std::uint32_t type) {
    const std::uint64_t begin = in_.at();
    const auto count = in_.number<std::uint64_t>("an array's length");
    const Checked bytes = Checked(count) * Checked(kValueBytes[type]);
    if (!bytes.at_most(in_.left())) {
      in_.fail(begin,
               concat("truncated: key ", shown(key), ": an array of ", count, " ",
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

  template <class T, class Next>
  static std::vector<T> read_elements(std::uint64_t count, const Next& next) {
    std::vector<T> out;
    out.reserve(static_cast<std::size_t>(count));
    for (std::uint64_t i = 0; i < count; ++i) out.push_back(next());
    return out;
  }

  void index_keys() {
    header_.by_key.resize(header_.metadata.size());
    const auto key = [&](std::uint32_t i) -> const std::string& {
      return header_.metadata[i].first;
    };
    if (const auto twice = sort_index(header_.by_key, key)) {
      in_.fail(header_.value_offset[*twice],
               concat("the key ", shown(key(*twice)), " stands twice"));
    }
  }

  void index_tensors() {
    header_.by_name.resize(header_.tensors.size());
    const auto name = [&](std::uint32_t i) -> const std::string& {
      return header_.tensors[i].name;
    };
    if (const auto twice = sort_index(header_.by_name, name)) {
      in_.fail(entry_offset_[*twice], concat("the tensor ", shown(name(*twice)), " stands twice"));
    }
  }

  /// Sorts 0, 1, … by their names and returns the second of two equal ones. Sorting, not hashing:
  /// no choice of names makes it slow.
  template <class Name>
  static std::optional<std::uint32_t> sort_index(std::vector<std::uint32_t>& index,
                                                 const Name& name) {
    std::iota(index.begin(), index.end(), 0u);
    std::sort(index.begin(), index.end(), [&](std::uint32_t a, std::uint32_t b) {
      const int order = name(a).compare(name(b));
      return order != 0 ? order < 0 : a < b;
    });
    const auto same = [&](std::uint32_t a, std::uint32_t b) { return name(a) == name(b); };
    const auto twice = std::adjacent_find(index.begin(), index.end(), same);
    return twice == index.end() ? std::nullopt : std::optional(*std::next(twice));
  }

  void refuse_split() const {
    const std::int64_t i = header_.find("split.count");
    if (i < 0) return;
    const auto at = static_cast<std::size_t>(i);
    const auto* count = std::get_if<std::int64_t>(&header_.metadata[at].second);
    if (count == nullptr || *count < 0) {
      in_.fail(header_.value_offset[at], "split.count must be a whole number");
    }
    if (*count > 1) {
      in_.fail(header_.value_offset[at],
               concat("this is one of ", *count,
                      " parts of a split model (split.count); split files are not supported, merge "
                      "the parts into one file"));
    }
  }

  void read_tensor() {
    const std::uint64_t begin = in_.at();
    GgufTensor tensor;
    tensor.name = in_.text(kMostNameBytes, "a tensor's name");
    if (const auto fault = fault_of_text(tensor.name)) {
      in_.fail(begin, concat("the tensor name ", shown(tensor.name), " ", *fault));
    }
    if (tensor.name.find("../") != std::string::npos) {
      in_.fail(begin, concat("the tensor name ", shown(tensor.name), " has '../'"));
    }
    const std::uint64_t shape_at = in_.at();
    read_shape(tensor);
    const std::uint64_t type_at = in_.at();
    tensor.type = in_.number<std::uint32_t>("a tensor's type");
    tensor.bytes = bytes_of(tensor, shape_at, type_at);
    tensor.offset = in_.number<std::uint64_t>("a tensor's offset");
    header_.tensors.push_back(std::move(tensor));
    entry_offset_.push_back(begin);
  }

  void read_shape(GgufTensor& tensor) {
    const std::uint64_t begin = in_.at();
    const auto dims = in_.number<std::uint32_t>("a tensor's rank");
    if (dims == 0 || dims > kMostDims) {
      in_.fail(begin, concat("tensor ", shown(tensor.name), ": the rank is ", dims,
                             ", allowed are 1 to ", kMostDims));
    }
    tensor.shape.resize(dims);
    for (std::uint32_t i = 0; i < dims; ++i) {
      const std::uint64_t size_at = in_.at();
      const auto size = in_.number<std::int64_t>("a tensor's dimension");
      if (size < 0) {
        in_.fail(size_at, concat("tensor ", shown(tensor.name), ": dimension ", i, " is ", size,
                                 ", allowed are 0 and more"));
      }
      tensor.shape[dims - 1 - i] = size;  // the file begins with the innermost
    }
  }

  std::uint64_t bytes_of(const GgufTensor& tensor, std::uint64_t shape_at,
                         std::uint64_t type_at) const {
    const GgufType* type = gguf_type(tensor.type);
    if (type == nullptr) {
      in_.fail(type_at, concat("tensor ", shown(tensor.name), ": type ", tensor.type,
                               " is unknown or was removed from the format; allowed are F32, F16, "
                               "BF16, F64, I8 to I64, Q, IQ and TQ types and MXFP4"));
    }
    const auto row = static_cast<std::uint64_t>(tensor.shape.back());
    if (row % type->block != 0) {
      in_.fail(shape_at, concat("tensor ", shown(tensor.name), ": a row has ", row, " elements, ",
                                type->name, " needs a multiple of ", type->block));
    }
    // Zeros count as one here, so that no order of multiplication can hide an overflow behind them.
    Checked elements = 1, bytes = Checked(row / type->block) * Checked(type->block_bytes);
    for (const std::int64_t size : tensor.shape) {
      elements = elements * Checked(static_cast<std::uint64_t>(std::max<std::int64_t>(size, 1)));
    }
    for (std::size_t i = 0; i + 1 < tensor.shape.size(); ++i) {
      bytes = bytes * Checked(static_cast<std::uint64_t>(tensor.shape[i]));
    }
    constexpr auto kMost = static_cast<std::uint64_t>(std::numeric_limits<std::int64_t>::max());
    if (!elements.at_most(kMost) || !bytes.at_most(kMost)) {
      in_.fail(shape_at,
               concat("tensor ", shown(tensor.name), ": the product of its dimensions overflows"));
    }
    return *bytes.value();
  }

  /// The data of the tensors lie one after another, each padded; then offsets count from the start
  /// of the file.
  void place_tensors() {
    const std::uint64_t file_bytes = file_.size();
    const Checked data_begin = Checked(in_.at()).padded_to(header_.alignment);
    Checked running = 0;
    for (std::size_t i = 0; i < header_.tensors.size(); ++i) {
      GgufTensor& tensor = header_.tensors[i];
      const std::optional<std::uint64_t> expected = running.value();
      if (!expected || tensor.offset != *expected) {
        in_.fail(entry_offset_[i],
                 concat("tensor ", shown(tensor.name), ": its offset is ", tensor.offset,
                        ", after the tensors before it must come ", expected.value_or(0)));
      }
      const Checked begin = data_begin + running;
      if (!(begin + Checked(tensor.bytes)).at_most(file_bytes)) {
        in_.fail(
            entry_offset_[i],
            concat("truncated: tensor ", shown(tensor.name), " has ", tensor.bytes,
                   " bytes from byte ", begin.value().value_or(0), ", the file has ", file_bytes));
      }
      tensor.offset = *begin.value();
      running = (running + Checked(tensor.bytes)).padded_to(header_.alignment);
    }
  }

  const File& file_;
  Cursor in_;
  GgufHeader header_;
  std::vector<std::uint64_t> entry_offset_;  // where each tensor's entry begins
  std::uint64_t strings_left_ = kMostArrayStrings;
  std::uint64_t numbers_left_ = kMostArrayNumbers;
};

}  // namespace

std::int64_t GgufHeader::find(std::string_view key) const {
  const auto before = [&](std::uint32_t i, std::string_view k) { return metadata[i].first < k; };
  const auto it = std::lower_bound(by_key.begin(), by_key.end(), key, before);
  return it != by_key.end() && metadata[*it].first == key ? std::int64_t{*it} : -1;
}

GgufHeader read_gguf_header(const File& file) { return HeaderReader(file).read(); }

}  // namespace quire::io

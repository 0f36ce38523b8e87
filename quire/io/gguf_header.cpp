#include "quire/io/gguf_header.h"

#include <algorithm>
#include <bit>
#include <limits>
#include <numeric>
#include <optional>

#include "quire/base/checked.h"
#include "quire/base/error.h"
#include "quire/io/gguf_cursor.h"
#include "quire/io/gguf_value.h"

namespace quire::io {
namespace {

constexpr std::uint64_t kMostKeys = 65'536;
constexpr std::uint64_t kMostTensors = 262'144;
constexpr std::uint64_t kMostKeyBytes = 65'535;
constexpr std::uint64_t kMostAlignment = 1u << 20;
constexpr std::uint64_t kMostNameBytes = 63;
constexpr std::uint32_t kMostDims = 4;
// The least that a key with a value, or a tensor's entry, takes in the file.
constexpr std::uint64_t kLeastPairBytes = 8 + 1 + 4 + 1;
constexpr std::uint64_t kLeastTensorBytes = 8 + 1 + 4 + 8 + 4 + 8;

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
    if (const auto fault = fault_of_name(key)) {
      in_.fail(begin, concat("the key ", shown(key), " ", *fault));
    }
    const std::uint64_t type_at = in_.at();
    const std::uint32_t type = values_.read_type(key, "the value's type");
    const std::uint64_t value_at = in_.at();
    if (key == "general.alignment") read_alignment(type_at, type, value_at);
    GgufValue value = key == "general.alignment" ? GgufValue(std::int64_t{header_.alignment})
                                                 : values_.read(key, type);
    header_.metadata.emplace_back(std::move(key), std::move(value));
    header_.value_offset.push_back(value_at);
  }

  void read_alignment(std::uint64_t type_at, std::uint32_t type, std::uint64_t value_at) {
    if (type != kU32) {
      in_.fail(type_at, concat("general.alignment has type ", gguf_value_type_name(type),
                               ", it must be u32"));
    }
    header_.alignment = in_.number<std::uint32_t>("general.alignment");
    if (!std::has_single_bit(header_.alignment) || header_.alignment < 8 ||
        header_.alignment > kMostAlignment) {
      in_.fail(value_at, concat("general.alignment is ", header_.alignment,
                                ", allowed are powers of two from 8 to ", kMostAlignment));
    }
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
    if (const auto fault = fault_of_name(tensor.name)) {
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
  GgufCursor in_;
  GgufValueReader values_{in_};
  GgufHeader header_;
  std::vector<std::uint64_t> entry_offset_;  // where each tensor's entry begins
};

}  // namespace

std::int64_t GgufHeader::find(std::string_view key) const {
  const auto before = [&](std::uint32_t i, std::string_view k) { return metadata[i].first < k; };
  const auto it = std::lower_bound(by_key.begin(), by_key.end(), key, before);
  return it != by_key.end() && metadata[*it].first == key ? std::int64_t{*it} : -1;
}

GgufHeader read_gguf_header(const File& file) { return HeaderReader(file).read(); }

}  // namespace quire::io

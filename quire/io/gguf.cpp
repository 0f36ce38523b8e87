#include "quire/io/gguf.h"

#include <algorithm>

#include "quire/base/error.h"
#include "quire/io/gguf_header.h"

namespace quire::io {
namespace {

/// What a value is, in words for a message.
struct Describe {
  std::string operator()(std::int64_t x) const { return concat("the integer ", x); }
  std::string operator()(std::uint64_t x) const { return concat("the integer ", x); }
  std::string operator()(double x) const { return concat("the number ", x); }
  std::string operator()(bool x) const { return x ? "the boolean true" : "the boolean false"; }
  std::string operator()(const std::string&) const { return "a string"; }
  std::string operator()(const std::vector<std::int64_t>&) const { return "an array of integers"; }
  std::string operator()(const std::vector<double>&) const { return "an array of numbers"; }
  std::string operator()(const std::vector<bool>&) const { return "an array of booleans"; }
  std::string operator()(const std::vector<std::string>&) const { return "an array of strings"; }
};

}  // namespace

struct GgufFile::Impl {
  std::unique_ptr<File> file;
  GgufHeader header;

  [[noreturn]] void missing(std::string_view key) const {
    throw FormatError(file->path(), concat("the key '", key, "' is missing"));
  }

  /// The value as a T; null when the key is absent.
  template <class T>
  const T* find(std::string_view key, std::string_view expected) const {
    const std::int64_t i = header.find(key);
    if (i < 0) return nullptr;
    const auto at = static_cast<std::size_t>(i);
    const T* value = std::get_if<T>(&header.metadata[at].second);
    if (value == nullptr) wrong_kind(at, expected);
    return value;
  }

  [[noreturn]] void wrong_kind(std::size_t at, std::string_view expected) const {
    const auto& [key, value] = header.metadata[at];
    throw FormatError(
        file->path(), header.value_offset[at],
        concat("the key '", key, "' is ", std::visit(Describe(), value), ", expected ", expected));
  }
};

GgufFile::GgufFile(const std::string& path) {
  auto impl = std::make_shared<Impl>();
  impl->file = file_ops().open(path);
  impl->header = read_gguf_header(*impl->file);
  impl_ = std::move(impl);
}

const std::string& GgufFile::path() const { return impl_->file->path(); }
std::uint64_t GgufFile::file_bytes() const { return impl_->file->size(); }
std::uint32_t GgufFile::version() const { return impl_->header.version; }
const std::vector<std::pair<std::string, GgufValue>>& GgufFile::metadata() const {
  return impl_->header.metadata;
}
const std::vector<GgufTensor>& GgufFile::tensors() const { return impl_->header.tensors; }

const GgufValue* GgufFile::find(std::string_view key) const {
  const std::int64_t i = impl_->header.find(key);
  return i < 0 ? nullptr : &impl_->header.metadata[static_cast<std::size_t>(i)].second;
}

const GgufTensor* GgufFile::tensor(std::string_view name) const {
  const GgufHeader& header = impl_->header;
  const auto before = [&](std::uint32_t i, std::string_view n) {
    return header.tensors[i].name < n;
  };
  const auto it = std::lower_bound(header.by_name.begin(), header.by_name.end(), name, before);
  return it != header.by_name.end() && header.tensors[*it].name == name ? &header.tensors[*it]
                                                                        : nullptr;
}

std::int64_t GgufFile::integer(std::string_view key) const {
  const auto* value = impl_->find<std::int64_t>(key, "an integer below 2^63");
  if (value == nullptr) impl_->missing(key);
  return *value;
}

std::int64_t GgufFile::integer(std::string_view key, std::int64_t otherwise) const {
  const auto* value = impl_->find<std::int64_t>(key, "an integer below 2^63");
  return value != nullptr ? *value : otherwise;
}

double GgufFile::number(std::string_view key) const {
  if (find(key) == nullptr) impl_->missing(key);
  return number(key, 0.0);
}

double GgufFile::number(std::string_view key, double otherwise) const {
  const GgufValue* any = find(key);
  if (any != nullptr && std::holds_alternative<std::int64_t>(*any)) {
    return static_cast<double>(std::get<std::int64_t>(*any));
  }
  if (any != nullptr && std::holds_alternative<std::uint64_t>(*any)) {
    return static_cast<double>(std::get<std::uint64_t>(*any));
  }
  const auto* value = impl_->find<double>(key, "a number");
  return value != nullptr ? *value : otherwise;
}

bool GgufFile::boolean(std::string_view key, bool otherwise) const {
  const auto* value = impl_->find<bool>(key, "a boolean");
  return value != nullptr ? *value : otherwise;
}

const std::string& GgufFile::text(std::string_view key) const {
  const auto* value = impl_->find<std::string>(key, "a string");
  if (value == nullptr) impl_->missing(key);
  return *value;
}

std::string GgufFile::text(std::string_view key, std::string_view otherwise) const {
  const auto* value = impl_->find<std::string>(key, "a string");
  return value != nullptr ? *value : std::string(otherwise);
}

const std::vector<std::string>* GgufFile::texts(std::string_view key) const {
  return impl_->find<std::vector<std::string>>(key, "an array of strings");
}

const std::vector<std::int64_t>* GgufFile::integers(std::string_view key) const {
  return impl_->find<std::vector<std::int64_t>>(key, "an array of integers");
}

void GgufFile::read(const GgufTensor& tensor, std::uint64_t begin, std::span<std::byte> out) const {
  QUIRE_CHECK(begin <= tensor.bytes && out.size() <= tensor.bytes - begin, "tensor '", tensor.name,
              "': bytes from ", begin, ", ", std::uint64_t{out.size()},
              " of them, lie outside its ", tensor.bytes);
  impl_->file->read_at(tensor.offset + begin, out);
}

}  // namespace quire::io

#include "quire/io/safetensors.h"

#include <algorithm>
#include <cstring>
#include <set>

#include "quire/base/error.h"
#include "quire/base/file_ops.h"
#include "quire/base/json.h"
#include "quire/base/utf8.h"
#include "quire/io/safetensors_header.h"

namespace quire::io {

struct SafetensorsFile::Impl {
  std::unique_ptr<File> file;
  SafetensorsHeader header;
};

SafetensorsFile::SafetensorsFile(const std::string& path) {
  auto impl = std::make_shared<Impl>();
  impl->file = file_ops().open(path);
  impl->header = read_safetensors_header(*impl->file);
  impl_ = std::move(impl);
}

const std::string& SafetensorsFile::path() const { return impl_->file->path(); }

const std::vector<SafetensorsFile::Entry>& SafetensorsFile::entries() const {
  return impl_->header.entries;
}

const std::map<std::string, std::string>& SafetensorsFile::metadata() const {
  return impl_->header.metadata;
}

const SafetensorsFile::Entry* SafetensorsFile::find(std::string_view name) const {
  const SafetensorsHeader& header = impl_->header;
  const auto before = [&](std::uint32_t i, std::string_view n) {
    return header.entries[i].name < n;
  };
  const auto it = std::lower_bound(header.by_name.begin(), header.by_name.end(), name, before);
  return it != header.by_name.end() && header.entries[*it].name == name ? &header.entries[*it]
                                                                        : nullptr;
}

Tensor SafetensorsFile::read(std::string_view name) const {
  const Entry* entry = find(name);
  if (entry == nullptr) throw FormatError(path(), concat("there is no tensor '", name, "'"));
  Tensor tensor = Tensor::empty(entry->shape, entry->dtype);
  if (entry->bytes == 0) return tensor;
  auto* data = static_cast<std::byte*>(tensor.mutable_data<void>());
  const std::span bytes(data, static_cast<std::size_t>(entry->bytes));
  impl_->file->read_at(entry->offset, bytes);
  if (entry->dtype == DType::kBool) {
    const auto odd =
        std::find_if(bytes.begin(), bytes.end(), [](std::byte b) { return b > std::byte{1}; });
    if (odd != bytes.end()) {
      throw FormatError(path(), entry->offset + static_cast<std::uint64_t>(odd - bytes.begin()),
                        concat("tensor '", name, "': a bool is ", std::to_integer<unsigned>(*odd),
                               ", allowed are 0 and 1"));
    }
  }
  return tensor;
}

namespace {

constexpr std::size_t kDataAlignment = 64;

void check_names(const std::vector<std::pair<std::string, Tensor>>& tensors,
                 const std::map<std::string, std::string>& metadata) {
  std::set<std::string_view> names;
  for (const auto& [name, tensor] : tensors) {
    QUIRE_CHECK(!name.empty() && name != "__metadata__" && is_utf8(name),
                "a tensor cannot have the name '", name, "'");
    QUIRE_CHECK(names.insert(name).second, "two tensors have the name '", name, "'");
  }
  for (const auto& [key, value] : metadata) {
    QUIRE_CHECK(is_utf8(key) && is_utf8(value), "metadata '", key, "' is not UTF-8");
  }
}

std::string header_of(const std::vector<std::pair<std::string, Tensor>>& tensors,
                      const std::map<std::string, std::string>& metadata) {
  Json::Object header;
  if (!metadata.empty()) {
    Json::Object object;
    for (const auto& [key, value] : metadata) object.emplace_back(key, Json(value));
    header.emplace_back("__metadata__", Json(std::move(object)));
  }
  std::int64_t at = 0;
  for (const auto& [name, tensor] : tensors) {
    Json::Array shape;
    for (const std::int64_t size : tensor.shape()) shape.emplace_back(size);
    Json::Object entry;
    entry.emplace_back("dtype", Json(safetensors_dtype_name(tensor.dtype())));
    entry.emplace_back("shape", Json(std::move(shape)));
    entry.emplace_back("data_offsets", Json(Json::Array{Json(at), Json(at + tensor.bytes())}));
    header.emplace_back(name, Json(std::move(entry)));
    at += tensor.bytes();
  }
  std::string text = Json(std::move(header)).dump();
  text.resize((8 + text.size() + kDataAlignment - 1) / kDataAlignment * kDataAlignment - 8, ' ');
  return text;
}

}  // namespace

void write_safetensors(const std::string& path,
                       const std::vector<std::pair<std::string, Tensor>>& tensors,
                       const std::map<std::string, std::string>& metadata) {
  check_names(tensors, metadata);
  std::vector<std::pair<std::string, Tensor>> ordered;
  ordered.reserve(tensors.size());
  for (const auto& [name, tensor] : tensors) ordered.emplace_back(name, tensor.contiguous_copy());
  std::stable_sort(ordered.begin(), ordered.end(), [](const auto& a, const auto& b) {
    return size_of(a.second.dtype()) > size_of(b.second.dtype());
  });
  const std::string header = header_of(ordered, metadata);
  const std::uint64_t header_bytes = header.size();
  std::vector<std::span<const std::byte>> parts = {std::as_bytes(std::span(&header_bytes, 1)),
                                                   std::as_bytes(std::span(header))};
  for (const auto& [name, tensor] : ordered) {
    const auto* data = static_cast<const std::byte*>(tensor.data<void>());
    if (data != nullptr) parts.emplace_back(data, static_cast<std::size_t>(tensor.bytes()));
  }
  file_ops().write_whole(path, parts);
}

}  // namespace quire::io

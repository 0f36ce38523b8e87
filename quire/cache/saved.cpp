#include "quire/cache/saved.h"

#include <algorithm>
#include <array>
#include <cstddef>
#include <cstring>
#include <numeric>
#include <utility>

#include "quire/base/checked.h"
#include "quire/base/error.h"
#include "quire/base/isa.h"
#include "quire/base/json.h"
#include "quire/base/thread_pool.h"
#include "quire/cache/page_store.h"
#include "quire/ops/attention/kv_format.h"

namespace quire::cache {
namespace {

constexpr std::array<char, 8> kMagic = {'Q', 'U', 'I', 'R', 'E', 'K', 'V', '\n'};
constexpr std::uint32_t kVersion = 1, kByteOrder = 0x01020304;
constexpr std::uint64_t kMostJson = 1 << 20;
constexpr std::uint64_t kPageAlignment = 4096;
constexpr std::int64_t kMostTokens = std::int64_t{1} << 40;

/// The beginning of the file. Its checksum covers what stands before it; `meta` is the checksum of
/// everything between it and the pages.
struct Head {
  std::array<char, 8> magic;
  std::uint32_t version, byte_order;
  std::uint64_t file_bytes, json_bytes, pages_begin;
  Hash128 meta;
  std::uint64_t own;
};
static_assert(sizeof(Head) == 64, "as it lies in the file");

std::uint64_t checksum_of(const Head& head) {
  return checksum(std::as_bytes(std::span(&head, 1)).first(offsetof(Head, own))).low;
}

std::string_view name_of(KLayout layout) { return layout == KLayout::kBlocks ? "blocks" : "rows"; }

std::string header_text(const PagedCache& cache, const std::string& model, std::int64_t created) {
  const PagedSpec& spec = cache.pool()->spec();
  const PageStore& store = cache.pool()->store();
  Json header;
  header["model"] = model;
  header["identity"] = spec.identity;
  header["isa"] = to_string(isa());
  header["kv"] = to_string(spec.kv);
  header["k_layout"] = name_of(store.k_layout());
  header["tokens"] = cache.length();
  header["page_tokens"] = spec.page_tokens;
  header["data_bytes"] = store.data_bytes();
  header["scale_bytes"] = store.scale_bytes();
  header["created"] = created;
  Json::Array layers;
  for (const LayerSpec& s : spec.layers) layers.push_back(Json::Array{s.G, s.K, s.U});
  header["layers"] = std::move(layers);
  return header.dump();
}

template <class T>
void put(std::vector<std::byte>& out, std::span<const T> values) {
  const auto bytes = std::as_bytes(values);
  out.insert(out.end(), bytes.begin(), bytes.end());
}

void pad(std::vector<std::byte>& out, std::uint64_t offset, std::uint64_t unit) {
  while ((out.size() + offset) % unit != 0) out.push_back(std::byte{0});
}

/// The pages as they go to the file: data, then scales where there are some, of each.
class Pages {
 public:
  explicit Pages(const PagedCache& cache)
      : store_(cache.pool()->store()),
        table_(cache.table()),
        per_page_(store_.scale_bytes() > 0 ? 2 : 1),
        in_tail_(cache.length() % store_.Z()),
        checksums_(count()) {
    const auto sum = [&](std::size_t i, std::vector<std::byte>& memory) {
      checksums_[i] = checksum(part(i, memory));
    };
    if (store_.tier() != nullptr) {
      for (std::size_t i = 0; i < count(); ++i) sum(i, memory_);
    } else {
      thread_pool().run(static_cast<std::int64_t>(count()), [&](std::int64_t i) {
        std::vector<std::byte> memory;
        sum(static_cast<std::size_t>(i), memory);
      });
    }
  }

  std::size_t count() const { return table_.size() * per_page_; }
  std::span<const Hash128> checksums() const { return checksums_; }
  std::uint64_t bytes() const {
    return table_.size() * static_cast<std::uint64_t>(store_.data_bytes() + store_.scale_bytes());
  }
  std::span<const std::byte> part(std::size_t i) { return part(i, memory_); }

 private:
  /// Where it lies, or in `memory`.
  std::span<const std::byte> part(std::size_t i, std::vector<std::byte>& memory) const {
    const std::int32_t page = table_[i / per_page_];
    const bool is_tail = i / per_page_ + 1 == table_.size() && in_tail_ != 0;
    const std::int64_t slots = is_tail ? in_tail_ : store_.Z();
    if (i % per_page_ == 1) {
      memory.resize(static_cast<std::size_t>(store_.scale_bytes()));
      store_.copy_scales(page, slots, memory);
      return memory;
    }
    if (!is_tail && store_.tier() == nullptr) return store_.data(page);
    memory.resize(static_cast<std::size_t>(store_.data_bytes()));
    store_.copy_data(page, slots, memory);
    return memory;
  }

  const PageStore& store_;
  std::span<const std::int32_t> table_;
  std::size_t per_page_;
  std::int64_t in_tail_;
  std::vector<Hash128> checksums_;
  std::vector<std::byte> memory_;
};

}  // namespace

void save_cache(const PagedCache& cache, const std::string& path, const std::string& model,
                std::int64_t created) {
  const auto tokens = cache.tokens();
  QUIRE_CHECK(!tokens.empty(), "a cache without tokens is not worth a file");
  QUIRE_CHECK(std::none_of(tokens.begin(), tokens.end(), [](std::int32_t id) { return id < 0; }),
              "a cache whose tokens were not told cannot be saved");
  Pages pages(cache);
  const std::string json = header_text(cache, model, created);
  std::vector<std::byte> meta;
  put<char>(meta, json);
  pad(meta, sizeof(Head), 8);
  put(meta, tokens);
  pad(meta, sizeof(Head), 8);
  std::vector<std::int64_t> positions(tokens.size());
  std::iota(positions.begin(), positions.end(), 0);
  put<std::int64_t>(meta, positions);
  put<Hash128>(meta, pages.checksums());
  pad(meta, sizeof(Head), kPageAlignment);

  Head head{kMagic, kVersion, kByteOrder, sizeof(Head) + meta.size(), json.size(), 0, {}, 0};
  head.pages_begin = head.file_bytes;
  head.file_bytes += pages.bytes();
  head.meta = checksum(meta);
  head.own = checksum_of(head);
  file_ops().write_parts(path, 2 + pages.count(), [&](std::size_t i) -> std::span<const std::byte> {
    if (i == 0) return std::as_bytes(std::span(&head, 1));
    return i == 1 ? std::span<const std::byte>(meta) : pages.part(i - 2);
  });
}

void SavedCache::refuse(const std::string& why) const { throw FormatError(path_, why); }

SavedCache::SavedCache(const std::string& path) : path_(path), file_(file_ops().open(path)) {
  Head head{};
  if (file_->size() < sizeof head)
    refuse(concat("has ", file_->size(), " bytes: this is no saved cache"));
  file_->read_at(0, std::as_writable_bytes(std::span(&head, 1)));
  if (head.magic != kMagic) refuse("is no saved cache: it does not begin with QUIREKV");
  if (head.byte_order != kByteOrder) refuse("was written by a machine of another byte order");
  if (head.version != kVersion)
    refuse(concat("has version ", std::uint64_t{head.version}, "; this program reads version ",
                  std::uint64_t{kVersion}));
  if (head.own != checksum_of(head)) refuse("is damaged: the checksum of its beginning is wrong");
  if (head.file_bytes != file_->size())
    refuse(concat("has ", file_->size(), " bytes, but was written with ", head.file_bytes));
  if (head.json_bytes > kMostJson || head.pages_begin > head.file_bytes ||
      head.pages_begin < sizeof head + head.json_bytes || head.pages_begin % kPageAlignment != 0)
    refuse(concat("says that its header has ", head.json_bytes, " bytes and its pages begin at ",
                  head.pages_begin));
  std::vector<std::byte> meta(head.pages_begin - sizeof head);
  file_->read_at(sizeof head, meta);
  if (checksum(meta) != head.meta) refuse("is damaged: the checksum of its header is wrong");
  info_.bytes = static_cast<std::int64_t>(head.file_bytes);
  pages_begin_ = head.pages_begin;
  read_header(std::span(meta).first(head.json_bytes));
  read_lists(meta, Checked(head.json_bytes).padded_to(8).value().value_or(0));
}

void SavedCache::read_header(std::span<const std::byte> json) {
  const Json header =
      Json::parse(std::string_view(reinterpret_cast<const char*>(json.data()), json.size()), path_);
  const auto member = [&](const char* key) -> const Json& {
    const Json* found = header.find(key);
    if (found == nullptr) refuse(concat("key ", key, " is missing"));
    return *found;
  };
  const auto text = [&](const char* key) {
    const Json& value = member(key);
    if (!value.is_string()) refuse(concat("key ", key, " is not a text"));
    return value.as_string();
  };
  const auto integer = [&](const Json& value, const char* key, std::int64_t low) {
    if (!value.is_int() || value.as_int() < low || value.as_int() > kMostTokens)
      refuse(concat("key ", key, " is ", value.dump(), "; it must be ", low, " to ", kMostTokens));
    return value.as_int();
  };
  info_.model = text("model");
  info_.identity = text("identity");
  info_.isa = text("isa");
  k_layout_ = text("k_layout");
  const std::string kv = text("kv");
  bool is_known = false;
  for (const DType type : kKvForms) {
    if (kv != to_string(type)) continue;
    info_.kv = type;
    is_known = true;
  }
  if (!is_known) refuse(concat("key kv is '", kv, "'; it may be ", kv_formats()));
  info_.tokens = integer(member("tokens"), "tokens", 1);
  info_.page_tokens = integer(member("page_tokens"), "page_tokens", 1);
  info_.created = integer(member("created"), "created", 0);
  data_bytes_ = integer(member("data_bytes"), "data_bytes", 1);
  scale_bytes_ = integer(member("scale_bytes"), "scale_bytes", 0);
  if (!member("layers").is_array()) refuse("key layers is not a list");
  for (const Json& layer : member("layers").as_array()) {
    if (!layer.is_array() || layer.as_array().size() != 3)
      refuse("key layers does not hold lists of three numbers");
    const Json::Array& sizes = layer.as_array();
    layers_.push_back({integer(sizes[0], "layers", 1), integer(sizes[1], "layers", 1),
                       integer(sizes[2], "layers", 1)});
  }
}

std::int64_t SavedCache::pages() const {
  return (info_.tokens + info_.page_tokens - 1) / info_.page_tokens;
}

std::uint64_t SavedCache::page_at(std::int64_t page) const {
  return pages_begin_ + static_cast<std::uint64_t>(page * (data_bytes_ + scale_bytes_));
}

void SavedCache::read_lists(std::span<const std::byte> meta, std::uint64_t at) {
  const auto N = static_cast<std::uint64_t>(info_.tokens), P = static_cast<std::uint64_t>(pages()),
             page_bytes = static_cast<std::uint64_t>(data_bytes_ + scale_bytes_),
             sums = P * (scale_bytes_ > 0 ? 2 : 1);
  const Checked lists = (Checked(at) + Checked(N) * Checked(sizeof(std::int32_t))).padded_to(8) +
                        Checked(N) * Checked(sizeof(std::int64_t)) +
                        Checked(sums) * Checked(sizeof(Hash128));
  const Checked all = Checked(pages_begin_) + Checked(P) * Checked(page_bytes);
  // The header says what there must be; it must be there to the byte before anything is allocated.
  if (!lists.at_most(meta.size()) || meta.size() - *lists.value() >= kPageAlignment ||
      all.value() != static_cast<std::uint64_t>(info_.bytes))
    refuse(concat("says that it has ", info_.tokens, " tokens in pages of ", info_.page_tokens,
                  ", which its ", info_.bytes, " bytes cannot hold exactly"));
  const auto take = [&](void* to, std::uint64_t bytes) {
    std::memcpy(to, meta.data() + at, bytes);
    at = (at + bytes + 7) / 8 * 8;
  };
  tokens_.resize(N);
  take(tokens_.data(), N * sizeof(std::int32_t));
  std::vector<std::int64_t> positions(N);
  take(positions.data(), N * sizeof(std::int64_t));
  checksums_.resize(sums);
  take(checksums_.data(), sums * sizeof(Hash128));
  for (std::size_t n = 0; n < tokens_.size(); ++n) {
    if (tokens_[n] < 0) refuse(concat("token ", n, " is ", tokens_[n]));
    if (positions[n] != static_cast<std::int64_t>(n))
      refuse(concat("token ", n, " stands at position ", positions[n],
                    "; this program reads caches without holes"));
  }
  const auto rest = meta.subspan(*lists.value());
  if (std::any_of(rest.begin(), rest.end(), [](std::byte b) { return b != std::byte{0}; }))
    refuse("has something between its lists and its pages");
}

void SavedCache::check_page(std::int64_t page, std::span<const std::byte> data,
                            std::span<const std::byte> scales) const {
  const auto first = static_cast<std::size_t>(scale_bytes_ > 0 ? 2 * page : page);
  if (checksum(data) == checksums_[first] &&
      (scale_bytes_ == 0 || checksum(scales) == checksums_[first + 1]))
    return;
  throw FormatError(path_, page_at(page),
                    concat("page ", page, " of ", pages(), " is damaged: its checksum is wrong"));
}

void SavedCache::verify() const {
  thread_pool().run(pages(), [&](std::int64_t i) {
    std::vector<std::byte> page(static_cast<std::size_t>(data_bytes_ + scale_bytes_));
    file_->read_at(page_at(i), page);
    const auto data = static_cast<std::size_t>(data_bytes_);
    check_page(i, std::span(page).first(data), std::span(page).subspan(data));
  });
}

void SavedCache::check_pool(const PagedPool& pool) const {
  const PagedSpec& spec = pool.spec();
  const PageStore& store = pool.store();
  if (info_.identity != spec.identity)
    refuse(concat("was made by another model or mode (", info_.model, ", ", info_.identity,
                  "); this is ", spec.identity));
  if (info_.isa != to_string(isa()))
    refuse(concat("was made with the instruction set ", info_.isa, "; this run uses ",
                  to_string(isa()), ", whose bits differ"));
  if (info_.kv != spec.kv)
    refuse(concat("holds ", to_string(info_.kv), "; this cache stores ", to_string(spec.kv)));
  bool is_same = info_.page_tokens == spec.page_tokens && layers_.size() == spec.layers.size() &&
                 k_layout_ == name_of(store.k_layout()) && data_bytes_ == store.data_bytes() &&
                 scale_bytes_ == store.scale_bytes();
  for (std::size_t i = 0; is_same && i < layers_.size(); ++i) {
    const LayerSpec& s = spec.layers[i];
    is_same = layers_[i].G == s.G && layers_[i].K == s.K && layers_[i].U == s.U;
  }
  if (!is_same)
    refuse(concat("has ", layers_.size(), " layers in pages of ", info_.page_tokens,
                  " tokens; this cache has ", spec.layers.size(), " in pages of ", spec.page_tokens,
                  ", or of other sizes"));
}

std::unique_ptr<PagedCache> SavedCache::load(const std::shared_ptr<PagedPool>& pool,
                                             std::int64_t capacity) const {
  check_pool(*pool);
  QUIRE_CHECK(info_.tokens <= capacity, path_, " holds ", info_.tokens,
              " tokens, but the context only ", capacity);
  // Pages that nobody holds are worth keeping too: none is given up for a file that is damaged.
  if (pool->counts().free < pages()) verify();
  auto cache = std::make_unique<PagedCache>(pool, capacity);
  std::vector<Block> blocks;
  blocks.reserve(static_cast<std::size_t>(pages()));
  try {
    for (std::int64_t i = 0; i < pages(); ++i) blocks.push_back(pool->blocks().allocate());
    thread_pool().run(pages(), [&](std::int64_t i) {
      const std::int32_t page = blocks[static_cast<std::size_t>(i)].index;
      std::span<std::byte> data = pool->store().data(page);
      std::vector<std::byte> memory;
      if (data.empty()) {
        memory.resize(static_cast<std::size_t>(data_bytes_));
        data = memory;
      }
      std::vector<std::byte> scales(static_cast<std::size_t>(scale_bytes_));
      file_->read_at(page_at(i), data);
      if (scale_bytes_ > 0)
        file_->read_at(page_at(i) + static_cast<std::uint64_t>(data_bytes_), scales);
      check_page(i, data, scales);
      if (!memory.empty()) pool->store().set_data(page, memory);
      pool->store().set_scales(page, scales);
    });
    cache->restore(tokens_, blocks);
  } catch (...) {
    pool->blocks().release(blocks);
    throw;
  }
  return cache;
}

}  // namespace quire::cache

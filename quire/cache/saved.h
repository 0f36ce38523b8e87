#pragma once

#include <cstdint>
#include <memory>
#include <span>
#include <string>
#include <vector>

#include "quire/base/dtype.h"
#include "quire/base/file_ops.h"
#include "quire/cache/hash.h"
#include "quire/cache/paged.h"

namespace quire::cache {

/// What a saved cache says of itself.
struct SavedCacheInfo {
  std::string model;     // its name, for people
  std::string identity;  // what computed the keys (PagedSpec::identity)
  std::string isa;       // bits are equal on the same instruction set
  DType kv = DType::kF32;
  std::int64_t tokens = 0, page_tokens = 0;
  std::int64_t created = 0;  // seconds since 1970, UTC
  std::int64_t bytes = 0;    // of the file
};

/// Writes the tokens of `cache` with their keys and values to a file that appears whole or not at
/// all: a header, tokens, positions and a checksum of each page, then the pages as they lie in
/// memory, the unused slots of the last one as zeros. The same cache gives the same bytes (but for
/// `created`).
///
/// Throws  ArgumentError for a cache without tokens, or one whose tokens were not told; IoError.
/// Memory  the header, and one page; each page is read twice.
void save_cache(const PagedCache& cache, const std::string& path, const std::string& model,
                std::int64_t created);

/// A saved cache that was opened: all of it but the pages has been read and checked. The file is
/// hostile until then: any byte that is not as it was written ends in FormatError.
class SavedCache {
 public:
  /// Throws FormatError (with what was found), IoError.
  explicit SavedCache(const std::string& path);

  const SavedCacheInfo& info() const { return info_; }
  std::span<const std::int32_t> tokens() const { return tokens_; }

  /// Reads every page and compares its checksum. Throws FormatError naming the page; IoError.
  void verify() const;

  /// A cache of `pool` that holds the saved tokens. Everything is read and verified before it
  /// exists; a file that is refused changes nothing: the pool's pages are as free as before, and
  /// those that it keeps for others are still found.
  /// Throws  FormatError when the file was made by another model or mode, for another storage type
  ///         or page size, on another instruction set, or is damaged; ArgumentError when `capacity`
  ///         is less than the tokens; OutOfMemory, naming the budget, when the pool is too small;
  ///         IoError.
  std::unique_ptr<PagedCache> load(const std::shared_ptr<PagedPool>& pool,
                                   std::int64_t capacity) const;

 private:
  struct Layer {
    std::int64_t G, K, U;
  };
  void read_header(std::span<const std::byte> json);
  void read_lists(std::span<const std::byte> meta, std::uint64_t at);
  void check_pool(const PagedPool& pool) const;
  void check_page(std::int64_t page, std::span<const std::byte> data,
                  std::span<const std::byte> scales) const;
  std::uint64_t page_at(std::int64_t page) const;
  std::int64_t pages() const;
  [[noreturn]] void refuse(const std::string& why) const;

  std::string path_;
  std::unique_ptr<File> file_;
  SavedCacheInfo info_;
  std::vector<Layer> layers_;
  std::string k_layout_;
  std::int64_t data_bytes_ = 0, scale_bytes_ = 0;  // of a page
  std::uint64_t pages_begin_ = 0;
  std::vector<std::int32_t> tokens_;
  std::vector<Hash128> checksums_;  // of each page's data, then of its scales
};

}  // namespace quire::cache

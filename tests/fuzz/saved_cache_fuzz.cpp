// Saved caches. An input is either a whole file, or (so that mutations get past the checksums) its
// header, a line feed, its lists and its pages, of which a file with checksums that agree is made.

#include <algorithm>
#include <cstdint>
#include <cstring>
#include <stdexcept>
#include <string>
#include <vector>

#include "quire/cache/saved.h"
#include "tests/cache/steps.h"
#include "tests/support/fuzz.h"
#include "tests/support/memory_file_ops.h"

namespace quire::test {
namespace {

using cache::PagedCache;
using cache::PagedPool;
using cache::PagedSpec;
using cache::SavedCache;

constexpr std::int64_t kCapacity = 64, kTokens = 20;
constexpr std::size_t kHead = 64, kAlignment = 4096;

/// f16, or i8, which has scales.
std::shared_ptr<PagedPool> pool_of(DType kv) {
  PagedSpec spec;
  spec.layers = {cache::test::layer_of(2, 1, 4, 4), cache::test::layer_of(2, 2, 4, 2)};
  spec.kv = kv;
  spec.budget_tokens = kCapacity;
  spec.page_tokens = 16;
  spec.identity = "a model";
  return std::make_shared<PagedPool>(spec);
}

std::string saved(DType kv) {
  MemoryFileOps files;
  Rng rng(1);
  PagedCache cache(pool_of(kv), kCapacity);
  cache::test::hold(cache, cache::test::random_step(rng, cache.pool()->spec().layers, kTokens),
                    cache::test::ids_of(kTokens));
  cache::save_cache(cache, "f", "A model's name", 1);
  return files.content("f");
}

std::uint64_t number_at(const std::string& file, std::size_t at) {
  std::uint64_t out = 0;
  std::memcpy(&out, file.data() + at, sizeof out);
  return out;
}
void put(std::string& file, std::size_t at, std::uint64_t value) {
  std::memcpy(file.data() + at, &value, sizeof value);
}
cache::Hash128 sum(std::string_view text) {
  return cache::checksum(std::as_bytes(std::span(text.data(), text.size())));
}

/// Where the pages of that file begin.
std::size_t pages_begin(const std::string& file) {
  return static_cast<std::size_t>(number_at(file, 32));
}

std::string parts_of(const std::string& file) {
  const auto json = static_cast<std::size_t>(number_at(file, 24));
  const std::size_t begin = kHead + (json + 7) / 8 * 8;
  std::string lists = file.substr(begin, pages_begin(file) - begin);
  lists.resize(lists.find_last_not_of('\0') + 1);
  return file.substr(kHead, json) + "\n" + lists + file.substr(pages_begin(file));
}

/// A file of such parts; the last `pages` bytes are its pages.
std::string file_of(std::string_view parts, std::size_t pages) {
  const std::size_t line = std::min(parts.find('\n'), parts.size());
  const std::string_view rest = parts.substr(std::min(parts.size(), line + 1));
  const std::size_t lists = rest.size() - std::min(rest.size(), pages);
  static const std::string head = saved(DType::kF16).substr(0, kHead);
  std::string out = head;
  out += parts.substr(0, line);
  out.resize((out.size() + 7) / 8 * 8);
  out += rest.substr(0, lists);
  out.resize((out.size() + kAlignment - 1) / kAlignment * kAlignment);
  put(out, 24, line);
  put(out, 32, out.size());
  out += rest.substr(lists);
  return out;
}

/// The same with checksums, and a length, that agree.
std::string repaired(std::string file) {
  if (file.size() < kHead) return file;
  put(file, 16, file.size());
  const std::size_t begin = std::min(file.size(), std::max(kHead, pages_begin(file)));
  const cache::Hash128 meta = sum(std::string_view(file).substr(kHead, begin - kHead));
  std::memcpy(file.data() + 40, &meta, sizeof meta);
  put(file, 56, sum(std::string_view(file).substr(0, 56)).low);
  return file;
}

void open_and_load(const std::string& file) {
  MemoryFileOps files;
  files.put("f", file);
  const SavedCache opened("f");
  if (opened.tokens().size() > file.size())
    throw std::logic_error("more tokens than the file has bytes");
  opened.verify();
  const auto pool = pool_of(opened.info().kv == DType::kI8 ? DType::kI8 : DType::kF16);
  try {
    const auto cache = opened.load(pool, kCapacity);
    // What was accepted is what a run would have saved: it is written and read again.
    cache::save_cache(*cache, "g", opened.info().model, opened.info().created);
    const SavedCache again("g");
    again.verify();
    if (!std::equal(again.tokens().begin(), again.tokens().end(), opened.tokens().begin(),
                    opened.tokens().end()))
      throw std::logic_error("a saved cache does not round-trip");
  } catch (const Error&) {
    if (pool->counts().free != pool->counts().blocks)
      throw std::logic_error("a cache that was refused keeps pages");
    throw;
  }
}

}  // namespace

std::vector<std::string> fuzz_seeds() {
  return {saved(DType::kF16), parts_of(saved(DType::kF16)), parts_of(saved(DType::kI8))};
}

bool fuzz_one(std::string_view input) {
  constexpr std::string_view kMagic = "QUIREKV";
  if (input.substr(0, kMagic.size()) == kMagic) {
    try {
      open_and_load(std::string(input));
    } catch (const Error&) {
      open_and_load(repaired(std::string(input)));
    }
    return true;
  }
  static const std::size_t of_f16 = [] {
    const std::string file = saved(DType::kF16);
    return file.size() - pages_begin(file);
  }();
  static const std::size_t of_i8 = [] {
    const std::string file = saved(DType::kI8);
    return file.size() - pages_begin(file);
  }();
  const bool is_i8 = input.find("\"i8\"") != std::string_view::npos;
  open_and_load(repaired(file_of(input, is_i8 ? of_i8 : of_f16)));
  return true;
}

}  // namespace quire::test

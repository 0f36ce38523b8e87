#include "quire/cache/kv_cache.h"

#include <numeric>

#include "quire/base/error.h"

namespace quire::cache {

void KvCache::begin_step(std::span<const std::int32_t> /*ids*/) {}

std::vector<std::int64_t> KvCache::positions(std::int64_t N) const {
  std::vector<std::int64_t> out(static_cast<std::size_t>(N));
  std::iota(out.begin(), out.end(), length());
  return out;
}

bool KvCache::recover() { return false; }

std::int64_t KvCache::adopt(std::span<const std::int32_t> /*ids*/) { return 0; }

std::unique_ptr<KvCache> KvCache::fork() const {
  throw ArgumentError("this kind of cache cannot be forked; --cache paged can");
}

std::int64_t KvCache::reread_tokens() const { return 0; }

void KvCache::begin_reread() {
  throw ArgumentError("this kind of cache wants nothing read a second time");
}

void KvCache::end_reread() { KvCache::begin_reread(); }

void KvCache::end_reading() {}

std::vector<std::byte> KvCache::layer_bytes(std::int64_t /*layer*/) const {
  throw ArgumentError("this kind of cache cannot be saved; --cache paged, tiered and merged can");
}

void KvCache::restore(std::int64_t /*length*/, const LayerBytes& /*layer*/) {
  throw ArgumentError("this kind of cache cannot be restored");
}

CacheReport KvCache::report() const {
  // An exact cache reads all that it holds.
  return {.tokens = length(), .bytes_read = bytes(), .bytes_stored = bytes(), .mass = 1};
}

}  // namespace quire::cache

#include "quire/cache/hash.h"

#include <xxhash.h>

#include <cstring>
#include <memory>
#include <new>
#include <random>
#include <vector>

namespace quire::cache {
namespace {

Hash128 from(XXH128_hash_t hash) { return {hash.low64, hash.high64}; }

}  // namespace

Hash128 checksum(std::span<const std::byte> bytes) {
  return from(XXH3_128bits(bytes.data(), bytes.size()));
}

Hash128 checksum(std::span<const std::span<const std::byte>> parts) {
  const std::unique_ptr<XXH3_state_t, XXH_errorcode (*)(XXH3_state_t*)> state(XXH3_createState(),
                                                                              XXH3_freeState);
  if (state == nullptr) throw std::bad_alloc();
  XXH3_128bits_reset(state.get());
  for (const auto part : parts) XXH3_128bits_update(state.get(), part.data(), part.size());
  return from(XXH3_128bits_digest(state.get()));
}

std::string to_text(const Hash128& hash) {
  constexpr char kDigits[] = "0123456789abcdef";
  std::string out;
  for (const std::uint64_t half : {hash.high, hash.low})
    for (int shift = 60; shift >= 0; shift -= 4) out += kDigits[(half >> shift) & 15];
  return out;
}

KeyedHash::KeyedHash() {
  std::random_device device;
  for (std::size_t i = 0; i < key_.size(); i += sizeof(std::uint32_t)) {
    const std::uint32_t word = device();
    std::memcpy(key_.data() + i, &word, sizeof word);
  }
}

Hash128 KeyedHash::operator()(const Hash128& parent, std::span<const std::int32_t> tokens) const {
  std::vector<std::byte> bytes(sizeof parent + tokens.size_bytes());
  std::memcpy(bytes.data(), &parent, sizeof parent);
  if (!tokens.empty())
    std::memcpy(bytes.data() + sizeof parent, tokens.data(), tokens.size_bytes());
  return (*this)(bytes);
}

Hash128 KeyedHash::operator()(std::span<const std::byte> bytes) const {
  return from(XXH3_128bits_withSecret(bytes.data(), bytes.size(), key_.data(), key_.size()));
}

}  // namespace quire::cache

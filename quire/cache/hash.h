#pragma once

#include <array>
#include <cstddef>
#include <cstdint>
#include <span>
#include <string>

namespace quire::cache {

/// 128 bits of XXH3.
struct Hash128 {
  std::uint64_t low = 0, high = 0;
  friend bool operator==(const Hash128&, const Hash128&) = default;
};

/// Of these bytes: finds faults, not forgers.
Hash128 checksum(std::span<const std::byte> bytes);
/// Of the parts, as if they lay one after another.
Hash128 checksum(std::span<const std::span<const std::byte>> parts);

/// 32 hexadecimal digits.
std::string to_text(const Hash128& hash);

/// A hash under a random key: whoever does not know the key cannot plan a collision. Another object
/// has another key.
class KeyedHash {
 public:
  KeyedHash();

  /// Of a chain's end and the tokens that follow it.
  Hash128 operator()(const Hash128& parent, std::span<const std::int32_t> tokens) const;
  Hash128 operator()(std::span<const std::byte> bytes) const;

 private:
  std::array<std::byte, 192> key_;
};

}  // namespace quire::cache

#include "quire/cache/hash.h"

#include <gtest/gtest.h>

#include <string>
#include <vector>

namespace quire::cache {
namespace {

std::span<const std::byte> bytes(const std::string& text) { return std::as_bytes(std::span(text)); }

TEST(Hash, is_XXH3_of_128_bits) {
  // The published value for no bytes.
  EXPECT_EQ(to_text(checksum(bytes(""))), "99aa06d3014798d86001c324468d497f");
  EXPECT_FALSE(checksum(bytes("a")) == checksum(bytes("b")));
}

TEST(Hash, a_key_is_of_one_object) {
  const KeyedHash a, b;
  const std::vector<std::int32_t> tokens = {1, 2, 3};
  EXPECT_EQ(a({}, tokens), a({}, tokens));
  EXPECT_FALSE(a({}, tokens) == b({}, tokens));
  EXPECT_FALSE(a({}, tokens) == a({1, 0}, tokens));
  EXPECT_FALSE(a({}, tokens) == a({}, std::span(tokens).first(2)));
  EXPECT_FALSE(a(bytes("x")) == b(bytes("x")));
}

}  // namespace
}  // namespace quire::cache

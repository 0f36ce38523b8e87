#include "quire/tensor/rng.h"

#include <cmath>
#include <numbers>

#include "quire/base/error.h"

namespace quire {
namespace {

constexpr std::uint32_t low(std::uint64_t x) { return static_cast<std::uint32_t>(x); }
constexpr std::uint32_t high(std::uint64_t x) { return static_cast<std::uint32_t>(x >> 32); }

}  // namespace

std::array<std::uint32_t, 4> philox(std::array<std::uint32_t, 4> counter,
                                    std::array<std::uint32_t, 2> key) {
  for (int round = 0; round < 10; ++round) {
    const std::uint64_t a = std::uint64_t{0xD2511F53} * counter[0];
    const std::uint64_t b = std::uint64_t{0xCD9E8D57} * counter[2];
    counter = {high(b) ^ counter[1] ^ key[0], low(b), high(a) ^ counter[3] ^ key[1], low(a)};
    key[0] += 0x9E3779B9;
    key[1] += 0xBB67AE85;
  }
  return counter;
}

std::uint32_t Rng::next_u32() {
  if (used_ == block_.size()) {
    block_ = philox({low(counter_), high(counter_), 0, 0}, {low(seed_), high(seed_)});
    ++counter_;
    used_ = 0;
  }
  return block_[used_++];
}

std::uint64_t Rng::next_u64() {
  const std::uint64_t first = next_u32();
  return first | std::uint64_t{next_u32()} << 32;
}

double Rng::uniform() { return static_cast<double>(next_u64() >> 11) * 0x1p-53; }

float Rng::normal() {
  const double radius = std::sqrt(-2 * std::log(1 - uniform()));  // 1 − uniform() is never 0
  return static_cast<float>(radius * std::cos(2 * std::numbers::pi * uniform()));
}

std::uint64_t Rng::below(std::uint64_t bound) {
  QUIRE_CHECK(bound > 0, "below: the bound is 0");
  // The first 2^64 mod bound values would be one time too many: drawn again.
  const std::uint64_t surplus = (0 - bound) % bound;
  std::uint64_t value = next_u64();
  while (value < surplus) value = next_u64();
  return value % bound;
}

}  // namespace quire

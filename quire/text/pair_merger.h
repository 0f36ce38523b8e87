#pragma once

#include <array>
#include <cstdint>
#include <string_view>
#include <vector>

namespace quire::text {

/// Byte-pair merges by rank: of all neighbouring pairs in a word, the one with the lowest rank (the
/// leftmost of equals) becomes one symbol, again and again until no pair has a rank. Source:
/// Sennrich et al. 2016, "Neural Machine Translation of Rare Words with Subword Units".
class PairMerger {
 public:
  explicit PairMerger(std::size_t merges);

  /// The symbol that a byte begins as; -1: the byte is left out of every word.
  void set_byte(unsigned char byte, std::int32_t id) { byte_ids_[byte] = id; }
  /// False when the pair has a rank already. Ranks rise with each call.
  bool add(std::int32_t left, std::int32_t right, std::int32_t merged);

  /// Appends the ids of a word. Time O(n log n), memory O(n).
  void encode(std::string_view word, std::vector<std::int32_t>& out) const;

 private:
  struct Slot {
    std::uint64_t pair = ~std::uint64_t{0};
    std::int32_t rank = -1;
    std::int32_t merged = -1;
  };
  const Slot& find(std::int32_t left, std::int32_t right) const;
  void encode_short(std::string_view word, std::vector<std::int32_t>& out) const;
  void encode_long(std::string_view word, std::vector<std::int32_t>& out) const;

  std::array<std::int32_t, 256> byte_ids_;
  std::vector<Slot> slots_;  // open addressing, at most half full
  std::uint64_t mask_ = 0;
  std::int32_t ranks_ = 0;
};

}  // namespace quire::text

#pragma once

#include <array>
#include <cstdint>
#include <string_view>
#include <unordered_map>
#include <vector>

namespace quire::text {

/// Finds special tokens ("<|im_end|>") at a place in a text: a trie over their bytes.
class SpecialMatcher {
 public:
  /// `token` is not empty. A token added twice keeps its first id.
  void add(std::string_view token, std::int32_t id);

  struct Match {
    std::int32_t id = -1;
    std::size_t bytes = 0;
  };
  /// The longest token that `text` begins with; id -1 when there is none.
  Match longest(std::string_view text) const;

  bool empty() const { return nodes_.size() == 1; }

 private:
  std::array<bool, 256> first_{};                          // may a token begin with this byte?
  std::unordered_map<std::uint64_t, std::uint32_t> next_;  // node << 8 | byte
  std::vector<std::int32_t> nodes_ = {-1};                 // the id that ends here
};

}  // namespace quire::text

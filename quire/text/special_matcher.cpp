#include "quire/text/special_matcher.h"

namespace quire::text {

void SpecialMatcher::add(std::string_view token, std::int32_t id) {
  std::uint32_t node = 0;
  for (const char c : token) {
    const auto byte = static_cast<unsigned char>(c);
    if (node == 0) first_[byte] = true;
    const auto [edge, added] = next_.try_emplace(std::uint64_t{node} << 8 | byte,
                                                 static_cast<std::uint32_t>(nodes_.size()));
    if (added) nodes_.push_back(-1);
    node = edge->second;
  }
  if (nodes_[node] < 0) nodes_[node] = id;
}

SpecialMatcher::Match SpecialMatcher::longest(std::string_view text) const {
  Match match;
  if (text.empty() || !first_[static_cast<unsigned char>(text[0])]) return match;
  std::uint32_t node = 0;
  for (std::size_t i = 0; i < text.size(); ++i) {
    const auto edge = next_.find(std::uint64_t{node} << 8 | static_cast<unsigned char>(text[i]));
    if (edge == next_.end()) break;
    node = edge->second;
    if (nodes_[node] >= 0) match = {nodes_[node], i + 1};
  }
  return match;
}

}  // namespace quire::text

#include "cli/nearest.h"

#include <algorithm>
#include <vector>

namespace quire::cli {
namespace {

constexpr std::size_t kLongestWord = 64;  // the distance takes time in the product of the lengths

std::size_t edits(std::string_view a, std::string_view b) {
  std::vector<std::size_t> before, above, row(b.size() + 1);
  for (std::size_t j = 0; j <= b.size(); ++j) row[j] = j;
  for (std::size_t i = 1; i <= a.size(); ++i) {
    before = std::move(above);
    above = row;
    row[0] = i;
    for (std::size_t j = 1; j <= b.size(); ++j) {
      row[j] = std::min({above[j] + 1, row[j - 1] + 1, above[j - 1] + (a[i - 1] != b[j - 1])});
      if (i > 1 && j > 1 && a[i - 1] == b[j - 2] && a[i - 2] == b[j - 1]) {
        row[j] = std::min(row[j], before[j - 2] + 1);
      }
    }
  }
  return row[b.size()];
}

}  // namespace

std::string nearest(std::string_view typed, std::span<const std::string> words) {
  if (typed.size() > kLongestWord) return {};
  const std::string* best = nullptr;
  std::size_t fewest = std::max<std::size_t>(2, typed.size() / 2);
  for (const std::string& word : words) {
    if (typed.size() > 2 && word.starts_with(typed)) return word;
    const std::size_t distance = edits(typed, word);
    if (distance < fewest || (distance == fewest && best == nullptr)) {
      best = &word;
      fewest = distance;
    }
  }
  return best == nullptr ? std::string() : *best;
}

}  // namespace quire::cli

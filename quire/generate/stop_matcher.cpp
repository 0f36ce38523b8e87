#include "quire/generate/stop_matcher.h"

#include <algorithm>
#include <utility>

#include "quire/base/error.h"
#include "quire/base/utf8.h"

namespace quire::generate {

StopMatcher::StopMatcher(std::span<const std::string> stops) : stops_(stops) {
  for (const std::string& stop : stops) {
    QUIRE_CHECK(!stop.empty(), "a stop string is empty");
    QUIRE_CHECK(is_utf8(stop), "a stop string is not UTF-8");
  }
}

std::string StopMatcher::push(std::string_view piece) {
  if (found_) return {};
  // Byte by byte, so that the stop that is complete first is found wherever the text was cut.
  for (const char byte : piece) {
    held_ += byte;
    if (ends_in_stop()) {
      found_ = true;
      return std::exchange(held_, {});
    }
  }
  const std::size_t certain = held_.size() - held_for_later();
  std::string out = held_.substr(0, certain);
  held_.erase(0, certain);
  return out;
}

std::string StopMatcher::finish() { return std::exchange(held_, {}); }

// Removes the longest stop that held_ ends in.
bool StopMatcher::ends_in_stop() {
  std::size_t longest = 0;
  for (const std::string& stop : stops_) {
    if (held_.ends_with(stop)) longest = std::max(longest, stop.size());
  }
  held_.resize(held_.size() - longest);
  return longest > 0;
}

// The length of the longest end of held_ with which some stop begins.
std::size_t StopMatcher::held_for_later() const {
  std::size_t longest = 0;
  for (const std::string& stop : stops_) {
    for (std::size_t n = std::min(stop.size() - 1, held_.size()); n > longest; --n) {
      if (held_.ends_with(std::string_view(stop).substr(0, n))) longest = n;
    }
  }
  return longest;
}

}  // namespace quire::generate

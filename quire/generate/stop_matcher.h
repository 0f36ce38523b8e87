#pragma once

#include <cstddef>
#include <span>
#include <string>
#include <string_view>

namespace quire::generate {

/// Finds stop strings in a text that comes in pieces, and holds back what may be the beginning of
/// one. What it finds depends on the text alone, not on where it was cut.
class StopMatcher {
 public:
  /// The stops must outlive this. Throws ArgumentError for one that is empty or not UTF-8.
  explicit StopMatcher(std::span<const std::string> stops);

  /// The text that has become certain not to belong to a stop. After a stop was found: nothing
  /// more.
  std::string push(std::string_view piece);
  /// True once a stop is complete.
  bool found() const { return found_; }
  /// What was held back, when the text has ended.
  std::string finish();

 private:
  bool ends_in_stop();
  std::size_t held_for_later() const;

  std::span<const std::string> stops_;
  std::string held_;
  bool found_ = false;
};

}  // namespace quire::generate

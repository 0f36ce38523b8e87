#pragma once

#include <memory>
#include <string>
#include <string_view>
#include <vector>

namespace quire::text {

/// Cuts text into the words that byte-pair merges may not cross. May be used from several threads.
class PreTokenizer {
 public:
  /// Throws FormatError(`source`, …) for an unknown name, with the supported ones.
  PreTokenizer(std::string_view name, std::string_view source);
  ~PreTokenizer();
  PreTokenizer(PreTokenizer&&) noexcept;

  /// The words of well-formed UTF-8 text, in order and without gaps. Time linear in the text.
  std::vector<std::string_view> split(std::string_view text) const;

 private:
  struct Stage;
  std::vector<Stage> stages_;
};

}  // namespace quire::text

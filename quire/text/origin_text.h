#pragma once

#include <cstddef>
#include <string>
#include <string_view>
#include <vector>

#include "quire/text/tokenizer.h"

namespace quire::text {

/// A text that knows who wrote each byte of it.
class OriginText {
 public:
  struct Run {
    std::size_t end;  // one after the run's last byte
    Origin origin;
  };

  OriginText() = default;
  OriginText(std::string_view text, Origin origin) { append(text, origin); }

  const std::string& text() const { return text_; }
  std::size_t size() const { return text_.size(); }
  bool empty() const { return text_.empty(); }
  /// Neighbouring runs differ in origin; none is empty.
  const std::vector<Run>& runs() const { return runs_; }
  Origin origin_at(std::size_t byte) const;

  void append(std::string_view text, Origin origin);
  void append(const OriginText& other) { append(other, 0, other.size()); }
  /// Bytes [begin, end) of `other`.
  void append(const OriginText& other, std::size_t begin, std::size_t end);
  OriginText slice(std::size_t begin, std::size_t end) const;

  /// The runs as pieces for a tokenizer.
  std::vector<Piece> pieces() const;

 private:
  std::string text_;
  std::vector<Run> runs_;
};

}  // namespace quire::text

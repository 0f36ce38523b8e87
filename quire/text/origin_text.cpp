#include "quire/text/origin_text.h"

#include <algorithm>

namespace quire::text {
namespace {

std::vector<OriginText::Run>::const_iterator run_at(const std::vector<OriginText::Run>& runs,
                                                    std::size_t byte) {
  return std::upper_bound(runs.begin(), runs.end(), byte,
                          [](std::size_t at, const OriginText::Run& run) { return at < run.end; });
}

}  // namespace

Origin OriginText::origin_at(std::size_t byte) const {
  const auto run = run_at(runs_, byte);
  return run == runs_.end() ? Origin::kData : run->origin;
}

void OriginText::append(std::string_view text, Origin origin) {
  if (text.empty()) return;
  text_ += text;
  if (runs_.empty() || runs_.back().origin != origin) runs_.push_back({text_.size(), origin});
  runs_.back().end = text_.size();
}

void OriginText::append(const OriginText& other, std::size_t begin, std::size_t end) {
  for (auto run = run_at(other.runs_, begin); begin < end; ++run) {
    const std::size_t stop = std::min(end, run->end);
    append(std::string_view(other.text_).substr(begin, stop - begin), run->origin);
    begin = stop;
  }
}

OriginText OriginText::slice(std::size_t begin, std::size_t end) const {
  OriginText out;
  out.append(*this, begin, end);
  return out;
}

std::vector<Piece> OriginText::pieces() const {
  std::vector<Piece> out;
  std::size_t begin = 0;
  for (const Run& run : runs_) {
    out.push_back({text_.substr(begin, run.end - begin), run.origin});
    begin = run.end;
  }
  return out;
}

}  // namespace quire::text

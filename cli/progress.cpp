#include "cli/progress.h"

#include <fmt/format.h>

#include <algorithm>
#include <utility>

namespace quire::cli {
namespace {

constexpr double kRedrawSeconds = 0.1;
constexpr int kLongestBar = 30;
constexpr int kShortestBar = 5;

}  // namespace

Progress::Progress(std::string label, std::int64_t total, Show show)
    : label_(std::move(label)), total_(std::max<std::int64_t>(total, 1)) {
  if (show == Show::kOnTerminal) terminal_ = error_terminal();
}

Progress::~Progress() { clear(); }

std::string Progress::line(std::int64_t done) const {
  const double tok_s = rate(done, watch_.seconds());
  std::string figures = fmt::format(" {}/{} tokens", grouped(done), grouped(total_));
  if (tok_s > 0) {
    figures += fmt::format("  {:.0f} tok/s  {} left", tok_s,
                           seconds_text(static_cast<double>(total_ - done) / tok_s));
  }
  // The last column stays free: some terminals break the line when it is written.
  const int room = terminal_.columns - 1;
  const int bar = std::min(
      kLongestBar, room - static_cast<int>(label_.size()) - 1 - static_cast<int>(figures.size()));
  std::string out = label_;
  if (bar >= kShortestBar) {
    const auto full = static_cast<int>(static_cast<double>(bar) * static_cast<double>(done) /
                                       static_cast<double>(total_));
    out += ' ';
    for (int i = 0; i < bar; ++i) {
      out += terminal_.plain ? (i < full ? "#" : "-") : (i < full ? "█" : "░");
    }
    return out + figures;
  }
  return (out + figures).substr(0, static_cast<std::size_t>(std::max(room, 0)));
}

void Progress::update(std::int64_t done) {
  if (!terminal_.present) return;
  const double now = watch_.seconds();
  if (drawn_at_ >= 0 && now - drawn_at_ < kRedrawSeconds && done < total_) return;
  drawn_at_ = now;
  clear();
  const std::string text = line(std::min(done, total_));
  drawn_columns_ = terminal_.columns - 1;
  write_error(text);
}

void Progress::clear() {
  if (drawn_columns_ == 0) return;
  if (terminal_.plain) {
    std::string blank(static_cast<std::size_t>(std::max(drawn_columns_, 0)) + 2, ' ');
    blank.front() = '\r';
    blank.back() = '\r';
    write_error(blank);
  } else {
    write_error("\r\x1b[K");
  }
  drawn_columns_ = 0;
}

}  // namespace quire::cli

#pragma once

#include <cstdint>
#include <string>

#include "cli/figures.h"
#include "cli/output.h"

namespace quire::cli {

/// One line on a terminal that shows how far a piece of work is: a bar, tokens, tokens a second and
/// the time left. Nothing when no terminal is there, or when it is off. Redrawn at most ten times a
/// second; the line is gone when the object is.
class Progress {
 public:
  enum class Show { kOff, kOnTerminal };

  Progress(std::string label, std::int64_t total, Show show);
  ~Progress();
  Progress(const Progress&) = delete;
  Progress& operator=(const Progress&) = delete;

  void update(std::int64_t done);
  void clear();

 private:
  std::string line(std::int64_t done) const;

  std::string label_;
  std::int64_t total_;
  Terminal terminal_;
  Stopwatch watch_;
  double drawn_at_ = -1;
  int drawn_columns_ = 0;
};

}  // namespace quire::cli

#pragma once

#include <chrono>
#include <cstdint>
#include <string>
#include <vector>

namespace quire::cli {

/// "7,639"
std::string grouped(std::int64_t number);
/// "98.6 MB"; powers of 1000
std::string bytes_text(std::int64_t bytes);
/// "8.4 s", "2 min 05 s"
std::string seconds_text(double seconds);

/// The most memory that this process has held, in bytes; 0 where the system does not tell.
std::int64_t peak_memory_bytes();

/// Seconds since it was made.
class Stopwatch {
 public:
  double seconds() const {
    return std::chrono::duration<double>(std::chrono::steady_clock::now() - start_).count();
  }

 private:
  std::chrono::steady_clock::time_point start_ = std::chrono::steady_clock::now();
};

/// Work done in a second; 0 for no work.
double rate(std::int64_t work, double seconds);

/// The middle of at least one value, or the mean of the two in the middle.
double median(std::vector<double> values);

}  // namespace quire::cli

#pragma once

#include <algorithm>
#include <cstdint>

#include "quire/base/thread_pool.h"

namespace quire::kernel {

/// Calls body(begin, end) for pieces of [0, rows): on all threads when `work` numbers per row make
/// it worth waking them, else at once. Which piece a row falls into must not change its result.
template <class Body>
void for_rows(std::int64_t rows, std::int64_t work, Body&& body) {
  // Waking the pool costs a few microseconds, in which one core streams about this many numbers.
  constexpr std::int64_t kWorthThreads = 32768;
  if (rows <= 0) return;
  if (rows == 1 || rows * work < kWorthThreads) return body(std::int64_t{0}, rows);
  const std::int64_t piece =
      std::clamp(kWorthThreads / 4 / std::max<std::int64_t>(work, 1), std::int64_t{1}, rows);
  thread_pool().run((rows + piece - 1) / piece,
                    [&](std::int64_t i) { body(i * piece, std::min(rows, (i + 1) * piece)); });
}

}  // namespace quire::kernel

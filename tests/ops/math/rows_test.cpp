#include "quire/ops/math/rows.h"

#include <gtest/gtest.h>

#include <atomic>
#include <vector>

namespace quire::kernel {
namespace {

TEST(ForRows, EveryRowOnce) {
  for (const int threads : {1, 3}) {
    set_threads(threads);
    for (const std::int64_t rows : {0, 1, 2, 7, 1000, 100003}) {
      for (const std::int64_t work : {0, 1, 40, 100000}) {
        std::vector<std::atomic<int>> seen(static_cast<std::size_t>(rows));
        for_rows(rows, work, [&](std::int64_t begin, std::int64_t end) {
          for (std::int64_t i = begin; i < end; ++i) ++seen[static_cast<std::size_t>(i)];
        });
        for (const std::atomic<int>& count : seen) ASSERT_EQ(count, 1);
      }
    }
  }
  set_threads(1);
}

TEST(ForRows, SmallWorkIsOnePiece) {
  int calls = 0;
  for_rows(100, 100, [&](std::int64_t, std::int64_t) { ++calls; });
  EXPECT_EQ(calls, 1);
}

}  // namespace
}  // namespace quire::kernel

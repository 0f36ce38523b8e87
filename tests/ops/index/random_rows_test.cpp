#include "quire/ops/index/random_rows.h"

#include <cmath>
#include <vector>

#include "quire/ops/index/random_rows_kernel.h"
#include "tests/ops/index/index_case.h"

namespace quire {
namespace {

using test::expect_refused;
using test::ints;

TEST(RandomRows, ARateOnEachNumberOfThreads) {
  const Tensor rows = test::random({50, 20}, 1), index = test::random_index({50}, 50, 2);
  const int before = thread_pool().threads();
  for (const int threads : {1, 2}) {
    set_threads(threads);
    const double rate = random_row_rate(rows, index, 2);
    EXPECT_TRUE(std::isfinite(rate));
    EXPECT_GT(rate, 0);
  }
  set_threads(before);
}

// A loop that read less than it is counted for would give a ceiling too high.
TEST(RandomRows, EveryNumberOfEveryRowIsRead) {
  for (const std::int64_t D : {1, 2, 15, 16, 17, 64, 65, 128, 200, 300}) {
    constexpr std::int64_t kRows = 80;
    const Tensor rows = test::random_whole({kRows, D}, -8, 8, 3, DType::kF32);
    const Tensor index = test::random_index({kRows}, kRows, 4);
    for (const auto& [begin, end] : {std::pair(0, 80), {3, 70}, {5, 5}, {79, 80}}) {
      float expected = 0;
      for (std::int64_t n = begin; n < end; ++n) {
        const float* row = rows.data<float>() + index.data<std::int64_t>()[n] * D;
        for (std::int64_t d = 0; d < D; ++d) expected += row[d];
      }
      const kernel::ReadRows args{.data = rows.data<float>(),
                                  .index = index.data<std::int64_t>(),
                                  .begin = begin,
                                  .end = end,
                                  .N = kRows,
                                  .D = D};
      EXPECT_EQ(QUIRE_FOR_ISA(read_rows)(args), expected) << D;
    }
  }
}

TEST(RandomRows, Errors) {
  const Tensor rows = test::random({3, 4}, 5), index = ints({2, 0, 1}, {3});
  expect_refused([&] { random_row_rate(rows.to(DType::kF64), index, 1); }, "rows is f64");
  expect_refused([&] { random_row_rate(rows.transpose(0, 1), index, 1); }, "not contiguous");
  expect_refused([&] { random_row_rate(rows.view({12}), index, 1); }, "rows has rank 1");
  expect_refused(
      [&] {
        random_row_rate(Tensor::zeros({3, 0}, DType::kF32), index, 1);
      },
      "without elements");
  expect_refused([&] { random_row_rate(rows, index.to(DType::kI32), 1); }, "index is i32");
  expect_refused(
      [&] {
        random_row_rate(rows, ints({2, 0}, {2}), 1);
      },
      "index: size is 2 at dim 0, expected 3");
  expect_refused(
      [&] {
        random_row_rate(rows, ints({2, 0, 3}, {3}), 1);
      },
      "index[2] is 3, allowed are 0 to 2");
  expect_refused([&] { random_row_rate(rows, index, 0); }, "rounds is 0");
}

}  // namespace
}  // namespace quire

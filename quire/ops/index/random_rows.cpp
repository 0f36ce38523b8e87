#include "quire/ops/index/random_rows.h"

#include <algorithm>
#include <chrono>
#include <vector>

#include "quire/base/error.h"
#include "quire/base/thread_pool.h"
#include "quire/ops/index/index_check.h"
#include "quire/ops/index/random_rows_kernel.h"

namespace quire {

double random_row_rate(const Tensor& rows_ND, const Tensor& index_N, int rounds) {
  using Clock = std::chrono::steady_clock;
  constexpr std::int64_t kPieces = 64;
  QUIRE_CHECK(rows_ND.dtype() == DType::kF32, "rows is ", to_string(rows_ND.dtype()),
              ", expected f32");
  QUIRE_CHECK(rows_ND.rank() == 2 && rows_ND.contiguous(), "rows has rank ", rows_ND.rank(),
              rows_ND.contiguous() ? "" : " and is not contiguous", ", expected contiguous rank 2");
  QUIRE_CHECK(rows_ND.elements() > 0, "rows has shape ", to_string(rows_ND.shape()),
              ", without elements");
  QUIRE_CHECK(index_N.dtype() == DType::kI64, "index is ", to_string(index_N.dtype()),
              ", expected i64");
  const std::int64_t N = rows_ND.size(0), D = rows_ND.size(1);
  detail::check_same_shape(index_N, "index", {N});
  QUIRE_CHECK(index_N.contiguous(), "index is not contiguous");
  QUIRE_CHECK(rounds >= 1, "rounds is ", rounds, ", expected at least 1");
  detail::check_index_values(index_N, N, 0);
  const auto read = QUIRE_FOR_ISA(read_rows);
  const float* data = rows_ND.data<float>();
  const std::int64_t* index = index_N.data<std::int64_t>();
  // Sums go somewhere, so that no loop can be left out.
  std::vector<float> sums(static_cast<std::size_t>(kPieces));
  double best = 0;
  for (int round = 0; round < rounds; ++round) {
    const Clock::time_point start = Clock::now();
    thread_pool().run(kPieces, [&](std::int64_t p) {
      sums[static_cast<std::size_t>(p)] += read({.data = data,
                                                 .index = index,
                                                 .begin = N * p / kPieces,
                                                 .end = N * (p + 1) / kPieces,
                                                 .N = N,
                                                 .D = D});
    });
    const double seconds = std::chrono::duration<double>(Clock::now() - start).count();
    if (seconds > 0) best = std::max(best, static_cast<double>(N * (D * 4 + 8)) / seconds);
  }
  volatile float sink = sums.front();
  static_cast<void>(sink);
  return best;
}

}  // namespace quire

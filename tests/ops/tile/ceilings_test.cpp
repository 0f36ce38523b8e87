#include "quire/ops/tile/ceilings.h"

#include <gtest/gtest.h>

#include <array>
#include <cmath>
#include <vector>

#include "quire/base/isa.h"
#include "quire/base/thread_pool.h"
#include "quire/ops/tile/ceilings_kernel.h"

namespace quire {
namespace {

using kernel::kChains;
using kernel::kOperands;

TEST(Ceilings, AreMeasuredOnEachNumberOfThreads) {
  for (const int threads : {1, 2}) {
    set_threads(threads);
    const Ceilings ceilings = measure_ceilings(Effort::kQuick);
    for (const double figure : {ceilings.stream_gb_s, ceilings.fma_gflop_s, ceilings.int8_gop_s}) {
      EXPECT_TRUE(std::isfinite(figure));
      EXPECT_GT(figure, 0);
    }
  }
}

// Loops that did less than they are counted for would give a ceiling too high.
TEST(Ceilings, ReadingReadsEveryNumber) {
  std::vector<float> x(128 * 3);
  float expected = 0;
  for (std::size_t i = 0; i < x.size(); ++i) {
    x[i] = static_cast<float>(i % 13);
    expected += x[i];
  }
  EXPECT_EQ(QUIRE_FOR_ISA(stream_read)(x.data(), 384), expected);
  EXPECT_EQ(kernel::portable::stream_read(x.data(), 384), expected);
}

TEST(Ceilings, FmaChainsDoEveryStep) {
  std::array<float, 16 * kOperands> operands{};
  operands.fill(0.5f);
  // x → x/2 + 1/2 from 1/2: after n steps 1 − 2^−(n+1), in every lane of every chain.
  for (const int steps : {0, 1, 5, 19}) {
    const float expected = 16 * kChains * (1 - std::exp2(-static_cast<float>(steps + 1)));
    EXPECT_FLOAT_EQ(QUIRE_FOR_ISA(fma_chains)(operands.data(), steps), expected);
    EXPECT_FLOAT_EQ(kernel::portable::fma_chains(operands.data(), steps), expected);
  }
}

TEST(Ceilings, Dot4ChainsDoEveryStep) {
  std::array<std::uint8_t, 64 * kOperands> operands{};
  operands.fill(3);
  // Chain i begins at i and grows by 4 · 9 a step, in each of 16 lanes.
  for (const int steps : {0, 1, 5, 19}) {
    const auto expected =
        static_cast<float>(16 * (kChains * (kChains - 1) / 2 + kChains * 36 * steps));
    EXPECT_EQ(QUIRE_FOR_ISA(dot4_chains)(operands.data(), steps), expected);
    EXPECT_EQ(kernel::portable::dot4_chains(operands.data(), steps), expected);
  }
}

}  // namespace
}  // namespace quire

// What attention_backward holds beside its inputs and results, by a counting allocator.

#include <gtest/gtest.h>

#include <cstdint>
#include <vector>

#include "quire/base/thread_pool.h"
#include "quire/ops/attention/attention_backward.h"
#include "quire/ops/attention/attention_backward_kernel.h"
#include "tests/support/allocation_counter.h"
#include "tests/support/gradient_check.h"

namespace quire::test {
namespace {

constexpr std::int64_t kSlots = 16;
constexpr std::int64_t kSlack = 16 << 10;  // objects of fixed size

/// One causal sequence of S tokens over pages in order.
std::int64_t extra_bytes(std::int64_t S, std::int64_t heads, std::int64_t groups,
                         std::int64_t size) {
  const Tensor q = random_tensor({S, heads, size}, 1, DType::kF32),
               dout = random_tensor({S, heads, size}, 2, DType::kF32),
               k = random_tensor({S, groups, size}, 3, DType::kF32),
               v = random_tensor({S, groups, size}, 4, DType::kF32);
  std::vector<std::int32_t> table(static_cast<std::size_t>(S / kSlots));
  for (std::size_t w = 0; w < table.size(); ++w) table[w] = static_cast<std::int32_t>(w);
  KvView kv;
  kv.k_pages = k.data<void>();
  kv.v_pages = v.data<void>();
  kv.k_strides = kv.v_strides = {kSlots * groups * size, groups * size, size};
  kv.P = kv.W = S / kSlots;
  kv.Z = kSlots;
  kv.G = groups;
  kv.K = kv.U = size;
  kv.table = table.data();
  kv.length_BG = &S;
  AttentionSpec spec;
  spec.alignment = Alignment::kBottomRight;
  const std::int32_t start[] = {0, static_cast<std::int32_t>(S)};
  const Tensor start_J = Tensor::of(std::span<const std::int32_t>(start), {2});
  const AttentionResult result = attention(q, start_J, kv, spec);
  std::vector<float> dk(static_cast<std::size_t>(k.elements())), dv = dk;
  AttentionGradients gradients;
  gradients.dk_pages = dk.data();
  gradients.dv_pages = dv.data();
  reset_peak_allocated_bytes();
  const std::int64_t before = allocated_bytes();
  const std::int64_t held = peak_bytes(
      [&] { attention_backward(gradients, dout, Tensor(), q, start_J, kv, spec, result); });
  return held + peak_allocated_bytes() - before - q.bytes();
}

TEST(AttentionBackwardMemory, PAG_10_PAG_18_FLA_02_RowNumbersPagesAndTilesAndNoMore) {
  constexpr int kThreads = 2;
  set_threads(kThreads);
  struct Sizes {
    std::int64_t S, heads, groups, size;
  };
  for (const Sizes& at : {Sizes{256, 4, 2, 64}, Sizes{1024, 4, 2, 64},
                          // The long ones narrow: what is held does not depend on the pairs.
                          Sizes{2048, 2, 1, 16}, Sizes{6144, 2, 1, 16}}) {
    const std::int64_t tiles =
        kThreads * 4 * (kernel::backward_scratch(at.size, at.size, at.heads / at.groups) + 16);
    const std::int64_t rows = 2 * 4 * at.S * at.heads;  // two floats each
    const std::int64_t pages = 160 * (at.S / kSlots);
    const std::int64_t held = extra_bytes(at.S, at.heads, at.groups, at.size);
    EXPECT_LE(held, rows + pages + tiles + kSlack) << at.S;
    // A twentieth of one matrix of weights for all heads, of which gathering needs several.
    if (at.S >= 2048) {
      EXPECT_LE(20 * held, 4 * at.heads * at.S * at.S) << at.S;
    }
  }
}

}  // namespace
}  // namespace quire::test

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

constexpr std::int64_t kHeads = 4, kGroups = 2, kSize = 64, kSlots = 16;
constexpr std::int64_t kSlack = 16 << 10;  // objects of fixed size

/// One causal sequence of S tokens over pages in order.
std::int64_t extra_bytes(std::int64_t S) {
  const Tensor q = random_tensor({S, kHeads, kSize}, 1, DType::kF32),
               dout = random_tensor({S, kHeads, kSize}, 2, DType::kF32),
               k = random_tensor({S, kGroups, kSize}, 3, DType::kF32),
               v = random_tensor({S, kGroups, kSize}, 4, DType::kF32);
  std::vector<std::int32_t> table(static_cast<std::size_t>(S / kSlots));
  for (std::size_t w = 0; w < table.size(); ++w) table[w] = static_cast<std::int32_t>(w);
  KvView kv;
  kv.k_pages = k.data<void>();
  kv.v_pages = v.data<void>();
  kv.k_strides = kv.v_strides = {kSlots * kGroups * kSize, kGroups * kSize, kSize};
  kv.P = kv.W = S / kSlots;
  kv.Z = kSlots;
  kv.G = kGroups;
  kv.K = kv.U = kSize;
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
  const std::int64_t tiles =
      kThreads * 4 * (kernel::backward_scratch(kSize, kSize, kHeads / kGroups) + 16);
  for (const std::int64_t S : {256, 1024, 2048}) {
    const std::int64_t rows = 2 * 4 * S * kHeads;  // two floats each
    const std::int64_t pages = 160 * (S / kSlots);
    const std::int64_t held = extra_bytes(S);
    EXPECT_LE(held, rows + pages + tiles + kSlack) << S;
    // A twentieth of one matrix of weights for all heads, of which gathering needs several.
    if (S >= 2048) {
      EXPECT_LE(20 * held, 4 * kHeads * S * S) << S;
    }
  }
}

}  // namespace
}  // namespace quire::test

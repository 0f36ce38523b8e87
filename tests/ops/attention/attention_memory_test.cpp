// What attention holds while it runs, by counting allocations.

#include <gtest/gtest.h>

#include <vector>

#include "quire/base/thread_pool.h"
#include "quire/ops/attention/attention.h"
#include "tests/ops/attention/paged_case.h"
#include "tests/support/allocation_counter.h"

namespace quire::test {
namespace {

constexpr std::int64_t kHeads = 2, kSize = 16;

/// Bytes held while a causal prompt of S tokens over pages of 16 is attended, beside tensors (they
/// do not come from operator new: the queries and the result).
std::int64_t extra_bytes(std::int64_t S) {
  PagedForm form;
  form.G = kHeads;
  form.K = form.U = kSize;
  const PagedCase kv(form, {S});
  AttentionSpec spec;
  spec.alignment = Alignment::kBottomRight;
  const Queries queries({S}, kHeads, kSize);
  const KvView view = kv.view();
  return peak_bytes([&] { (void)queries.attend(view, spec); });
}

TEST(AttentionMemory, FLA_02_GrowsAtMostLinearlyWithTheLength) {
  // One thread: whether a second one comes to its tiles at all in a short run is chance.
  set_threads(1);
  (void)extra_bytes(512);  // what the thread keeps
  const std::int64_t held[] = {extra_bytes(4096), extra_bytes(8192), extra_bytes(16384)};
  // A few bytes per token for the list of work; a dense score matrix would be a GiB a head.
  EXPECT_LT(held[1], 2 * held[0] + 65536);
  EXPECT_LT(held[2], 4 * held[0] + 65536);
  EXPECT_LT(held[2], 1 << 20);
}

TEST(AttentionMemory, PAG_10_FLA_04_NoCopyOfTheCapacity) {
  // One page of 16384 slots, of which few are used: nothing of the capacity's size is held.
  PagedForm form;
  form.Z = 16384;
  form.table = Table::kNone;
  const PagedCase kv(form, {40});
  AttentionSpec spec;
  spec.alignment = Alignment::kBottomRight;
  const Queries queries({8}, 2, 16);
  const KvView view = kv.view();
  EXPECT_LT(peak_bytes([&] { (void)queries.attend(view, spec); }), 300000);
}

}  // namespace
}  // namespace quire::test

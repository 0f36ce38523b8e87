// Memory runs out at every allocation of a session's life: what had been read stays right, what was
// under way is gone, nothing is left behind, and afterwards everything goes on.
#include <gtest/gtest.h>

#include "quire/base/thread_pool.h"
#include "quire/cache/contiguous.h"
#include "quire/cache/saved.h"
#include "tests/cache/tiered.h"
#include "tests/support/failing_allocation.h"
#include "tests/support/memory_file_ops.h"

namespace quire::cache {
namespace {

using quire::test::FailingAllocation;
using quire::test::Memory;
using quire::test::MemoryFileOps;
using test::feed;
using test::hold;
using test::Ids;
using test::ids_of;
using test::layer_of;
using test::part;
using test::random_step;
using test::same_bits;
using test::Step;

class PagedMemory : public testing::Test {
 protected:
  PagedMemory() {
    set_threads(1);
    ContiguousCache plain(layers_, 40, DType::kF32);
    hold(plain, part(all_, 0, 10));
    first_ = feed(plain, part(all_, 10, 14));
    second_ = feed(plain, part(all_, 14, 17));
  }
  ~PagedMemory() override { set_threads(2); }

  std::shared_ptr<PagedPool> pool(bool is_limited) const {
    PagedSpec spec = test::spec_of(layers_, 64, 4);
    return std::make_shared<PagedPool>(is_limited ? test::limited(spec, "folder") : spec);
  }
  /// Reads, forks, edits, is found again, saved and reopened. True when all answers are right;
  /// throws what a cache throws.
  bool live(const std::shared_ptr<PagedPool>& pool) const {
    bool is_right = true;
    PagedCache cache(pool, 40);
    hold(cache, part(all_, 0, 10), ids_of(10));
    is_right = is_right && same_bits(feed(cache, part(all_, 10, 14), ids_of(4, 10)), first_);
    const auto child = cache.fork_paged(), grandchild = child->fork_paged();
    hold(*child, part(all_, 0, 6), ids_of(6, 100));
    is_right = is_right && same_bits(feed(*grandchild, part(all_, 14, 17), ids_of(3, 14)), second_);
    child->truncate(14);
    is_right = is_right && same_bits(feed(*child, part(all_, 14, 17), ids_of(3, 14)), second_);
    PagedCache other(pool, 40);
    const std::int64_t known = other.adopt(ids_of(14));
    if (known < 14) hold(other, part(all_, known, 14), ids_of(14 - known, 100));
    is_right = is_right && same_bits(feed(other, part(all_, 14, 17)), second_);
    save_cache(cache, "saved", "Model", 1);
    const auto reopened = SavedCache("saved").load(pool, 40);
    return is_right && same_bits(feed(*reopened, part(all_, 14, 17)), second_);
  }

  /// Whether memory ran out within the life of a pool.
  bool ran_out_at(std::int64_t n, Memory memory, bool is_limited) {
    std::shared_ptr<PagedPool> pool;
    bool is_right = true, failed = false;
    try {
      const FailingAllocation none(n, memory);
      try {
        pool = this->pool(is_limited);
        is_right = live(pool);
      } catch (...) {
        failed = none.failed();
        throw;
      }
      failed = none.failed();
    } catch (const std::bad_alloc&) {
    } catch (const Error&) {  // a disk that could not be read or written, or address space
    }
    EXPECT_TRUE(is_right) << "allocation " << n;
    if (!pool) return failed;
    const BlockCounts counts = pool->counts();
    EXPECT_EQ(counts.held, 0) << "allocation " << n;
    EXPECT_EQ(counts.free + counts.cached, counts.blocks);
    EXPECT_TRUE(live(pool)) << "after memory was gone at allocation " << n;
    EXPECT_EQ(pool->counts().held, 0);
    return failed;
  }

  MemoryFileOps files_;
  const std::vector<LayerSpec> layers_ = {layer_of(2, 1, 16, 16), layer_of(2, 1, 16, 16),
                                          layer_of(2, 1, 16, 16)};
  Rng rng_{5};
  const Step all_ = random_step(rng_, layers_, 17);
  std::vector<float> first_, second_;
};

TEST_F(PagedMemory, I6_runs_out_at_any_allocation) {
  for (const Memory memory : {Memory::kFailsOnce, Memory::kIsGone}) {
    std::int64_t n = 1;
    while (ran_out_at(n, memory, false) && !HasFailure()) n += n < 400 ? 1 : 3;
    EXPECT_GT(n, 400);
  }
}

TEST_F(PagedMemory, I6_I8_runs_out_at_any_allocation_while_pages_come_and_go) {
  for (const Memory memory : {Memory::kFailsOnce, Memory::kIsGone}) {
    std::int64_t n = 1;
    while (ran_out_at(n, memory, true) && !HasFailure()) n += n < 400 ? 1 : 5;
    EXPECT_GT(n, 400);
  }
}

}  // namespace
}  // namespace quire::cache

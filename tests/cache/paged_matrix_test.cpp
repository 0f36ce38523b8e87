// Every form of storage with every size of page, through all that may happen to a cache: read in
// chunks, forked, edited, saved, reopened, kept partly on disk. Each stage has the bits of a
// contiguous cache of the same tokens that nothing happened to.
#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <algorithm>
#include <string>

#include "quire/base/thread_pool.h"
#include "quire/cache/contiguous.h"
#include "quire/cache/saved.h"
#include "quire/ops/attention/kv_format.h"
#include "tests/cache/tiered.h"
#include "tests/support/memory_file_ops.h"

namespace quire::cache {
namespace {

using quire::test::MemoryFileOps;
using test::feed;
using test::feed_in;
using test::hold;
using test::Ids;
using test::ids_of;
using test::layer_of;
using test::limited_pool;
using test::part;
using test::random_step;
using test::same_bits;
using test::Step;

constexpr std::int64_t kPages[] = {1, 7, 16, 63, 64, 128};
constexpr std::int64_t kCapacity = 400;

/// More than two, so that a memory limit leaves some out, of heads that are no multiple of 16.
std::vector<LayerSpec> some_layers() {
  return {layer_of(4, 2, 16, 32), layer_of(2, 2, 20, 12), layer_of(2, 2, 16, 32)};
}

std::shared_ptr<PagedPool> pool_of(std::int64_t page, DType kv) {
  return std::make_shared<PagedPool>(test::spec_of(some_layers(), 3 * kCapacity, page, kv));
}

/// What a contiguous cache that was read at once answers to `next`.
std::vector<float> plain(DType kv, const std::vector<Step>& read, const Step& next) {
  ContiguousCache cache(some_layers(), kCapacity, kv);
  for (const Step& step : read) hold(cache, step);
  return feed(cache, next);
}

class PagedMatrix : public testing::TestWithParam<DType> {
 protected:
  PagedMatrix()
      : first_(random_step(rng_, some_layers(), 150)),
        other_(random_step(rng_, some_layers(), 90)),
        next_(random_step(rng_, some_layers(), 30)) {}
  ~PagedMatrix() override { set_threads(2); }

  DType kv() const { return GetParam(); }
  std::string at(std::int64_t page) const {
    return std::string(to_string(kv())) + ", pages of " + std::to_string(page);
  }
  /// first_, read in chunks, in a file.
  void save_first(std::int64_t page, std::int64_t chunk, const std::string& path) const {
    PagedCache cache(pool_of(page, kv()), kCapacity);
    feed_in(cache, first_, chunk, ids_of(150));
    save_cache(cache, path, "Model", 5);
  }

  Rng rng_{11};
  const Step first_, other_, next_;
};

TEST_P(PagedMatrix, I7_INF_06_chunks_and_threads_do_not_matter) {
  ContiguousCache contiguous(some_layers(), kCapacity, kv());
  const std::vector<float> expected = feed(contiguous, first_), more = feed(contiguous, next_);
  for (const std::int64_t page : kPages) {
    for (const std::int64_t chunk : {150, 33, 1}) {
      set_threads(chunk == 33 ? 1 : 2);
      PagedCache cache(pool_of(page, kv()), kCapacity);
      if (chunk == 150) {
        EXPECT_TRUE(same_bits(feed(cache, first_), expected)) << at(page);
      } else {
        feed_in(cache, first_, chunk);
      }
      EXPECT_TRUE(same_bits(feed(cache, next_), more)) << at(page) << ", chunks of " << chunk;
    }
  }
}

TEST_P(PagedMatrix, I7_K3_INF_04_a_fork_of_a_fork_that_is_cut_back_disturbs_nobody) {
  const std::vector<float> of_base = plain(kv(), {first_}, next_),
                           of_child = plain(kv(), {first_, other_}, next_);
  for (const std::int64_t page : kPages) {
    const auto pool = pool_of(page, kv());
    PagedCache base(pool, kCapacity);
    feed_in(base, first_, 40, ids_of(150));
    const auto child = base.fork_paged();
    hold(*child, part(other_, 0, 50), ids_of(50, 1000));
    const auto grandchild = child->fork_paged();
    hold(*grandchild, part(other_, 50, 90), ids_of(40, 2000));
    for (const std::int64_t length : {171, 150, 128, 64, 63, 1}) {
      const auto cut = grandchild->fork_paged();
      cut->truncate(length);
      std::vector<Step> read = {part(first_, 0, std::min<std::int64_t>(length, 150))};
      if (length > 150) read.push_back(part(other_, 0, length - 150));
      EXPECT_TRUE(same_bits(feed(*cut, next_, ids_of(30, 3000)), plain(kv(), read, next_)))
          << at(page) << ", cut to " << length;
    }
    hold(*child, part(other_, 50, 90), ids_of(40, 2000));
    EXPECT_TRUE(same_bits(feed(*grandchild, next_), of_child)) << at(page);
    EXPECT_TRUE(same_bits(feed(*child, next_), of_child)) << at(page);
    EXPECT_TRUE(same_bits(feed(base, next_), of_base)) << at(page);
  }
}

TEST_P(PagedMatrix, I2_I7_INF_11_saved_and_reopened_with_other_threads_and_chunks) {
  for (const std::int64_t page : kPages) {
    MemoryFileOps files;
    set_threads(2);
    save_first(page, 40, "f");
    set_threads(1);
    save_first(page, 1, "g");
    EXPECT_TRUE(files.content("g") == files.content("f")) << at(page);

    const SavedCache saved("f");
    saved.verify();
    EXPECT_EQ(saved.info().kv, kv());
    const auto whole = saved.load(pool_of(page, kv()), kCapacity);
    const std::vector<float> expected = plain(kv(), {first_}, next_);
    for (std::int64_t n = 0; n < 30; ++n) feed(*whole, part(next_, n, n + 1));
    whole->truncate(150);
    EXPECT_TRUE(same_bits(feed(*whole, next_), expected)) << at(page);
    // After an edit near the end, and near the beginning.
    for (const std::int64_t kept : {149, 130, 3}) {
      const auto edited = saved.load(pool_of(page, kv()), kCapacity);
      edited->truncate(kept);
      hold(*edited, other_, ids_of(90, 1000));
      EXPECT_TRUE(
          same_bits(feed(*edited, next_), plain(kv(), {part(first_, 0, kept), other_}, next_)))
          << at(page) << ", edited at " << kept;
    }
  }
}

TEST_P(PagedMatrix, I7_I2_a_saved_file_reopens_under_a_memory_limit_and_out_of_one) {
  for (const std::int64_t page : kPages) {
    MemoryFileOps files;
    set_threads(2);
    save_first(page, 40, "f");
    const auto limited = limited_pool(some_layers(), 190, "folder", page, kv());
    ASSERT_TRUE(limited->tier_counts()) << at(page);
    const auto inside = SavedCache("f").load(limited, kCapacity);
    save_cache(*inside, "g", "Model", 5);
    EXPECT_TRUE(files.content("g") == files.content("f")) << at(page);
    inside->truncate(101);
    hold(*inside, part(other_, 0, 49), ids_of(49, 1000));
    set_threads(1);
    EXPECT_TRUE(same_bits(feed(*inside, next_, ids_of(30, 2000)),
                          plain(kv(), {part(first_, 0, 101), part(other_, 0, 49)}, next_)))
        << at(page);
    EXPECT_GT(limited->tier_counts()->bytes_read, 0) << at(page);
  }
}

TEST_P(PagedMatrix, I6_a_step_that_ends_anywhere_leaves_the_cache_as_it_was) {
  // A step is abandoned behind each of its calls; the next one, another, goes through.
  const auto layers = static_cast<std::int64_t>(some_layers().size());
  const std::vector<float> expected = plain(kv(), {first_}, next_);
  for (const std::int64_t page : {7, 64}) {
    const auto pool = pool_of(page, kv());
    PagedCache cache(pool, kCapacity);
    feed_in(cache, first_, 40, ids_of(150));
    const std::int64_t held = pool->counts().held;
    for (std::int64_t calls = 0; calls <= 2 * layers; ++calls) {
      for (const bool forked : {false, true}) {
        const auto witness = cache.fork_paged();
        const auto fork = cache.fork_paged();
        PagedCache& one = forked ? *fork : cache;
        one.begin_step(ids_of(90, 500));
        for (std::int64_t call = 0; call < calls; ++call) {
          const auto layer = static_cast<std::size_t>(call / 2);
          if (call % 2 == 0) one.append(call / 2, other_.k[layer], other_.v[layer]);
          if (call % 2 == 1) (void)one.attend(call / 2, other_.q[layer]);
        }
        EXPECT_EQ(one.length(), 150);
        one.truncate(150);
        EXPECT_TRUE(same_bits(feed(one, next_, ids_of(30, 700)), expected)) << at(page);
        one.truncate(150);
        EXPECT_TRUE(same_bits(feed(*witness, next_, ids_of(30, 700)), expected)) << at(page);
      }
      EXPECT_EQ(pool->counts().held, held) << calls;
    }
  }
}

INSTANTIATE_TEST_SUITE_P(Forms, PagedMatrix, testing::ValuesIn(kKvForms),
                         [](const auto& form) { return std::string(to_string(form.param)); });

}  // namespace
}  // namespace quire::cache

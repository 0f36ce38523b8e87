// A process that saves caches over and over is killed at any moment: what stands in the file is
// always a whole cache, and one that was really saved.
#include <gtest/gtest.h>
#include <signal.h>
#include <sys/wait.h>
#include <unistd.h>

#include <filesystem>
#include <iterator>
#include <set>

#include "quire/base/thread_pool.h"
#include "quire/cache/saved.h"
#include "tests/cache/steps.h"
#include "tests/support/folder.h"

namespace quire::cache {
namespace {

using test::feed;
using test::layer_of;
using test::random_step;
using Ids = std::vector<std::int32_t>;

constexpr std::int64_t kTokens = 100;

std::shared_ptr<PagedPool> small_pool() {
  PagedSpec spec;
  spec.layers = {layer_of(4, 2, 32, 32), layer_of(4, 2, 32, 32)};
  spec.kv = DType::kI8;
  spec.budget_tokens = 2 * kTokens;
  spec.page_tokens = 16;
  return std::make_shared<PagedPool>(spec);
}

/// The cache number n: tokens and keys both follow from n.
void fill(PagedCache& cache, std::int32_t n) {
  Rng rng(static_cast<std::uint64_t>(n));
  feed(cache, random_step(rng, cache.pool()->spec().layers, kTokens), Ids(kTokens, n));
}

[[noreturn]] void save_for_ever(const std::string& path) {
  for (std::int32_t n = 1;; n = n % 7 + 1) {
    PagedCache cache(small_pool(), kTokens);
    fill(cache, n);
    save_cache(cache, path, "Model", n);
  }
}

TEST(SavedCacheKill, D6_I9_I24_a_thousand_kills_leave_a_whole_cache) {
  const quire::test::Folder folder;
  const std::string path = folder.path() + "/f";
  set_threads(1);  // a forked process has no other
  std::vector<std::vector<float>> answers;
  std::vector<test::Step> next;
  for (std::int32_t n = 0; n <= 7; ++n) {
    PagedCache cache(small_pool(), 2 * kTokens);
    fill(cache, n);
    Rng rng(99);
    next.push_back(random_step(rng, cache.pool()->spec().layers, 2));
    answers.push_back(feed(cache, next.back()));
  }
  {
    PagedCache first(small_pool(), kTokens);
    fill(first, 0);
    save_cache(first, path, "Model", 0);
  }
  Rng rng(1);
  int changes = 0;
  std::size_t before = 0;
  for (int kill = 0; kill < 1000; ++kill) {
    const pid_t child = ::fork();
    ASSERT_GE(child, 0);
    if (child == 0) save_for_ever(path);
    ::usleep(static_cast<useconds_t>(rng.below(6'000)));
    ::kill(child, SIGKILL);
    int status = 0;
    ASSERT_EQ(::waitpid(child, &status, 0), child);
    ASSERT_TRUE(WIFSIGNALED(status)) << "it ended by itself";
    const SavedCache saved(path);
    const auto cache = saved.load(small_pool(), 2 * kTokens);
    const auto n = static_cast<std::size_t>(saved.tokens()[0]);
    ASSERT_EQ(saved.info().created, static_cast<std::int64_t>(n));
    ASSERT_TRUE(test::same_bits(feed(*cache, next[n]), answers[n])) << "kill " << kill;
    changes += n != before ? 1 : 0;
    before = n;
  }
  // What the killed ones left is gone with the next that is saved.
  PagedCache last(small_pool(), kTokens);
  fill(last, 1);
  save_cache(last, path, "Model", 1);
  EXPECT_EQ(std::distance(std::filesystem::directory_iterator(folder.path()), {}), 1);
  // How far a child comes depends on the machine; that some came through does not.
  EXPECT_GT(changes, 0);
}

TEST(SavedCacheKill,
     D8_D11_I9_two_processes_that_save_to_one_file_and_a_reader_meet_only_whole_ones) {
  const quire::test::Folder folder;
  const std::string path = folder.path() + "/f";
  set_threads(1);
  pid_t writers[2];
  for (pid_t& writer : writers) {
    writer = ::fork();
    ASSERT_GE(writer, 0);
    if (writer == 0) save_for_ever(path);
  }
  std::set<std::int32_t> seen;
  for (int reads = 0; reads < 300;) {
    if (!std::filesystem::exists(path)) continue;
    const SavedCache saved(path);  // what is renamed over meanwhile stays open
    saved.verify();
    const auto cache = saved.load(small_pool(), 2 * kTokens);
    EXPECT_EQ(saved.info().created, cache->tokens()[0]);
    seen.insert(cache->tokens()[0]);
    ++reads;
  }
  for (const pid_t writer : writers) {
    int status = 0;
    EXPECT_EQ(::waitpid(writer, &status, WNOHANG), 0) << "it ended by itself";
    ::kill(writer, SIGKILL);
    ::waitpid(writer, &status, 0);
  }
  EXPECT_GT(seen.size(), 1u);
}

}  // namespace
}  // namespace quire::cache

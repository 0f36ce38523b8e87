// A process that stores pages and reads them back is killed at any moment. What it had published
// stands whole in the file, nothing that stands there is taken for what it is not, and the folder
// is as empty as before.
#include <gtest/gtest.h>
#include <signal.h>
#include <sys/mman.h>
#include <sys/wait.h>
#include <unistd.h>

#include <atomic>
#include <filesystem>

#include "quire/base/thread_pool.h"
#include "quire/cache/tier_file.h"
#include "tests/cache/named_scratch.h"
#include "tests/cache/tiered.h"

namespace quire::cache {
namespace {

using test::feed;
using test::Folder;
using test::layer_of;
using test::limited_pool;
using test::part;
using test::random_step;
using test::same_bits;

constexpr std::int64_t kPlaces = 24, kPayload = 8'000, kTokens = 96, kChunk = 24;
constexpr Hash128 kTier{5, 6}, kFormat{7, 8};

/// What a child tells its parent, who sees it after the kill.
struct Told {
  std::atomic<std::int64_t> verified{0}, wrong{0};
  std::atomic<std::int64_t> writing{-1};  // the place of the write under way
  struct {
    RecordKey key;
    Hash128 sum;
  } published[kPlaces];
  std::atomic<std::uint64_t> version[kPlaces];  // of what is published there, written last
};

Told& shared_memory() {
  void* at =
      ::mmap(nullptr, sizeof(Told), PROT_READ | PROT_WRITE, MAP_SHARED | MAP_ANONYMOUS, -1, 0);
  if (at == MAP_FAILED) throw OutOfMemory("no shared memory");
  return *new (at) Told;
}

/// Kills the child that does `work` after up to `most_us`. It must not have ended by itself.
template <class F>
void kill_one(Rng& rng, std::uint64_t most_us, F&& work) {
  const pid_t child = ::fork();
  ASSERT_GE(child, 0);
  if (child == 0) {
    work();
    ::_exit(1);
  }
  ::usleep(static_cast<useconds_t>(rng.below(most_us)));
  ::kill(child, SIGKILL);
  int status = 0;
  ASSERT_EQ(::waitpid(child, &status, 0), child);
  ASSERT_TRUE(WIFSIGNALED(status)) << "it ended by itself";
}

TEST(TierKill, D6_I24_five_hundred_kills_while_caches_stream_serve_no_wrong_block) {
  set_threads(1);  // a forked process has no other
  const Folder folder;
  const std::vector<LayerSpec> layers(4, layer_of(2, 1, 32, 32));
  Rng rng(1);
  const test::Step all = random_step(rng, layers, kTokens);
  std::vector<std::vector<float>> expected;
  {
    PagedCache plain(std::make_shared<PagedPool>(test::spec_of(layers, kTokens)), kTokens);
    for (std::int64_t at = 0; at < kTokens; at += kChunk)
      expected.push_back(feed(plain, part(all, at, at + kChunk)));
  }
  Told& told = shared_memory();
  for (int kill = 0; kill < 500; ++kill) {
    kill_one(rng, 12'000, [&] {
      for (;;) {
        PagedCache cache(limited_pool(layers, kTokens, folder.path()), kTokens);
        for (std::int64_t at = 0; at < kTokens; at += kChunk) {
          const auto got = feed(cache, part(all, at, at + kChunk));
          told.wrong += same_bits(got, expected[static_cast<std::size_t>(at / kChunk)]) ? 0 : 1;
          ++told.verified;
        }
      }
    });
    ASSERT_EQ(told.wrong, 0);
    ASSERT_TRUE(std::filesystem::is_empty(folder.path()))
        << "something is left of a killed process";
  }
  EXPECT_GT(told.verified, 500);
}

TEST(TierKill, D6_I8_I9_five_hundred_kills_leave_whole_records_and_no_wrong_one) {
  const Folder folder;
  const std::string path = folder.path() + "/records";
  Told& told = shared_memory();
  Rng rng(2);
  std::uint64_t version = 0;
  std::int64_t whole = 0, lost = 0;
  for (int kill = 0; kill < 500; ++kill) {
    version += 1'000'000;
    told.writing = -1;
    kill_one(rng, 4'000, [&] {
      TierFile file(std::make_unique<test::NamedScratch>(path), kTier, kFormat, kPayload);
      std::vector<std::byte> bytes(kPayload);
      for (std::uint64_t v = version;; ++v) {
        const auto place = static_cast<std::int64_t>(v * 7 % kPlaces);
        std::fill(bytes.begin(), bytes.end(), static_cast<std::byte>(v % 251));
        TierRecord record{place, {1, static_cast<std::int32_t>(place), v}, {}, {bytes}, {}, 0};
        told.writing = place;
        file.write({&record, 1});
        told.published[place] = {record.key, record.sum};
        told.version[place] = v;
        told.writing = -1;
      }
    });
    TierFile file(std::make_unique<test::NamedScratch>(path), kTier, kFormat, kPayload);
    std::vector<std::byte> bytes(kPayload);
    for (std::int64_t place = 0; place < kPlaces; ++place) {
      if (told.version[place] == 0) continue;  // nothing was ever published there
      const auto& entry = told.published[place];
      TierRecord record{place, entry.key, entry.sum, {bytes}, {}, 0};
      file.read({&record, 1});
      if (record.fate == TierRecord::Fate::kWhole) {
        ++whole;
        const auto want = static_cast<std::byte>(entry.key.version % 251);
        ASSERT_TRUE(
            std::all_of(bytes.begin(), bytes.end(), [&](std::byte b) { return b == want; }));
        continue;
      }
      // Only what was being overwritten may be lost.
      ASSERT_EQ(place, told.writing) << "kill " << kill;
      told.version[place] = 0;
      ++lost;
    }
  }
  EXPECT_GT(whole, 5'000);
  EXPECT_LE(lost, 500);
}

}  // namespace
}  // namespace quire::cache

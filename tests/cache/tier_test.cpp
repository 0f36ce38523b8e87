#include "quire/cache/tier.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>
#include <sys/stat.h>

#include <cerrno>
#include <chrono>
#include <cstring>
#include <fstream>
#include <numeric>
#include <thread>

#include "quire/cache/contiguous.h"
#include "tests/cache/tier_model.h"
#include "tests/cache/tiered.h"
#include "tests/support/fault_file_ops.h"
#include "tests/support/stalling_scratch.h"

namespace quire::cache {
namespace {

using quire::test::FaultFileOps;
using test::feed;
using test::Folder;
using test::layer_of;
using test::limited;
using test::limited_pool;
using test::message_of;
using test::part;
using test::random_step;
using test::same_bits;
using test::spec_of;
using test::Step;
using test::TierModel;
using testing::AllOf;
using testing::HasSubstr;

using Ids = std::vector<std::int32_t>;

std::vector<LayerSpec> some_layers() { return std::vector<LayerSpec>(4, layer_of(2, 1, 16, 16)); }

constexpr std::int64_t kTokens = 96, kChunk = 24;

/// What came of reading a text under faults.
struct Outcome {
  std::int64_t errors = 0;
  bool is_finished = false, is_right = true;
};

/// Feeds the text; after an error it goes on behind what is intact, as a session may. Every answer
/// is compared.
Outcome read_through(PagedCache& cache, const Step& all,
                     const std::vector<std::vector<float>>& expected, int patience) {
  Outcome out;
  while (cache.length() < kTokens && out.errors <= patience) {
    const std::int64_t at = cache.length();
    try {
      const std::int64_t end = (at / kChunk + 1) * kChunk;
      const auto got = feed(cache, part(all, at, end));
      // After a loss the step may begin anywhere: its last rows are those of the expected ones.
      const auto& want = expected[static_cast<std::size_t>(at / kChunk)];
      const std::size_t per_layer = want.size() / 4, rows = got.size() / 4;
      for (std::size_t layer = 0; layer < 4; ++layer)
        out.is_right = out.is_right &&
                       std::memcmp(got.data() + layer * rows,
                                   want.data() + (layer + 1) * per_layer - rows, 4 * rows) == 0;
    } catch (const IoError&) {
      ++out.errors;
      cache.truncate(std::min(cache.intact(), at));
    }
  }
  out.is_finished = cache.length() == kTokens;
  return out;
}

struct Text {
  Step all;
  std::vector<std::vector<float>> expected;
  Text() {
    Rng rng(1);
    const auto layers = some_layers();
    all = random_step(rng, layers, kTokens);
    ContiguousCache plain(layers, kTokens, DType::kF32);
    for (std::int64_t at = 0; at < kTokens; at += kChunk)
      expected.push_back(feed(plain, part(all, at, at + kChunk)));
  }
};

TEST(Tier, D1_D2_I6_a_fault_at_every_file_operation_costs_time_and_nothing_else) {
  const Text text;
  const Folder folder;
  std::int64_t operations = 0;
  {
    const FaultFileOps none(0);
    PagedCache cache(limited_pool(some_layers(), kTokens, folder.path()), kTokens);
    const Outcome outcome = read_through(cache, text.all, text.expected, 0);
    ASSERT_TRUE(outcome.is_finished && outcome.is_right);
    operations = none.operations();
  }
  ASSERT_GT(operations, 25);
  for (const int error : {EIO, ENOSPC}) {
    for (std::int64_t n = 1; n <= operations; ++n) {
      const FaultFileOps faults(n, FaultFileOps::Lasts::kOnce, error);
      std::shared_ptr<PagedPool> pool;
      try {
        pool = limited_pool(some_layers(), kTokens, folder.path());
      } catch (const IoError&) {
        ASSERT_LE(n, 2);  // the folder, the file
        continue;
      }
      PagedCache cache(pool, kTokens);
      const Outcome outcome = read_through(cache, text.all, text.expected, 0);
      ASSERT_TRUE(outcome.is_finished && outcome.is_right) << "operation " << n;
      ASSERT_EQ(pool->tier_counts()->lost, 0);
      // (How many reads there are at the end depends on how far the thread has read ahead.)
      ASSERT_TRUE(faults.failed() || n > 25) << "operation " << n;
    }
  }
}

TEST(Tier, D1_D2_a_disk_that_dies_at_any_operation_ends_in_an_error_or_the_right_bits) {
  const Text text;
  const Folder folder;
  int finished = 0, ended = 0;
  for (const int error : {EIO, ENOSPC}) {
    for (std::int64_t n = 3; n < 30; ++n) {
      const FaultFileOps faults(n, FaultFileOps::Lasts::kForEver, error);
      const auto dying = limited_pool(some_layers(), kTokens, folder.path());
      PagedCache cache(dying, kTokens);
      const Outcome outcome = read_through(cache, text.all, text.expected, 3);
      ASSERT_TRUE(outcome.is_right) << n;
      (outcome.is_finished ? finished : ended) += 1;
      if (outcome.is_finished) continue;
      // What fits into memory goes on being served.
      cache.truncate(0);
      const auto first = feed(cache, part(text.all, 0, kChunk));
      ASSERT_TRUE(same_bits(first, text.expected[0])) << n;
    }
  }
  EXPECT_GT(ended, 20);
  EXPECT_EQ(finished + ended, 2 * 27);
}

TEST(Tier, D1_the_error_says_what_to_do) {
  const Text text;
  const Folder folder;
  const FaultFileOps faults(3, FaultFileOps::Lasts::kForEver, ENOSPC);
  PagedCache cache(limited_pool(some_layers(), kTokens, folder.path()), kTokens);
  EXPECT_THAT(message_of<IoError>([&] {
                for (std::int64_t at = 0; at < kTokens; at += kChunk)
                  feed(cache, part(text.all, at, at + kChunk));
              }),
              AllOf(HasSubstr(folder.path()), HasSubstr("--cache-disk"), HasSubstr("--cache-ram"),
                    HasSubstr(std::strerror(ENOSPC))));
}

TEST(Tier, D7_D8_D13_leaves_nothing_in_the_folder_and_needs_nothing_of_it) {
  const Text text;
  auto folder = std::make_unique<Folder>();
  const std::string path = folder->path();
  std::filesystem::create_directory(path + "/sub");
  const auto a = limited_pool(some_layers(), kTokens, path),
             b = limited_pool(some_layers(), kTokens, path);
  PagedCache one(a, kTokens), two(b, kTokens);
  for (std::int64_t at = 0; at < kTokens; at += kChunk) {
    const auto& want = text.expected[static_cast<std::size_t>(at / kChunk)];
    EXPECT_TRUE(same_bits(feed(one, part(text.all, at, at + kChunk)), want));
    EXPECT_TRUE(same_bits(feed(two, part(text.all, at, at + kChunk)), want));
    if (at == 0) {
      // Only what somebody else put there.
      EXPECT_EQ(std::distance(std::filesystem::directory_iterator(path), {}), 1);
    } else {
      folder.reset();  // deleted while it is used
    }
  }
  EXPECT_GT(a->tier_counts()->bytes_read, 0);
  EXPECT_FALSE(std::filesystem::exists(path));
}

TEST(Tier, D7_a_folder_that_cannot_be_used_is_an_error_with_its_name) {
  const Folder folder;
  std::ofstream(folder.path() + "/file") << "x";
  EXPECT_THAT(
      message_of<IoError>([&] { limited_pool(some_layers(), kTokens, folder.path() + "/file"); }),
      HasSubstr("/file"));
  EXPECT_THROW(limited_pool(some_layers(), kTokens, folder.path() + "/file/below"), IoError);
  // A folder that is not there is made, for its owner alone.
  limited_pool(some_layers(), kTokens, folder.path() + "/new/one");
  struct stat status {};
  ASSERT_EQ(::stat((folder.path() + "/new/one").c_str(), &status), 0);
  EXPECT_EQ(status.st_mode & 0777, 0700u);
}

/// Every transfer takes its time.
class SlowFileOps final : public quire::test::ScratchFileOps {
 public:
  explicit SlowFileOps(int ms)
      : ScratchFileOps([ms](const std::string&) { return std::make_unique<Slow>(ms); }) {}

 private:
  class Slow final : public quire::test::MemoryScratch {
   public:
    explicit Slow(int ms) : ms_(ms) {}
    void read(std::span<Transfer> transfers) override {
      std::this_thread::sleep_for(std::chrono::milliseconds(ms_));
      MemoryScratch::read(transfers);
    }
    void write(std::span<Transfer> transfers) override {
      std::this_thread::sleep_for(std::chrono::milliseconds(ms_));
      MemoryScratch::write(transfers);
    }

   private:
    int ms_;
  };
};

TEST(Tier, D10_a_slow_disk_costs_time_only) {
  const Text text;
  const Folder folder;
  const SlowFileOps slow(10);
  PagedCache cache(limited_pool(some_layers(), kTokens, folder.path()), kTokens);
  const Outcome outcome = read_through(cache, text.all, text.expected, 0);
  EXPECT_TRUE(outcome.is_finished && outcome.is_right);
}

/// A disk behind a gate, with 50 ms for an answer.
class StallingDisk {
 public:
  std::shared_ptr<PagedPool> pool() {
    const quire::test::ScratchFileOps ops(
        [&](const std::string&) { return std::make_unique<quire::test::StallingScratch>(gate); });
    PagedSpec spec = limited(spec_of(some_layers(), kTokens), folder_.path());
    spec.memory.deadline_ms = 50;
    return std::make_shared<PagedPool>(spec);
  }
  quire::test::Gate gate;

 private:
  Folder folder_;
};

TEST(Tier, D10_a_disk_that_stalls_for_a_while_costs_time_only) {
  const Text text;
  StallingDisk disk;
  std::int64_t stalls = 0, losses = 0;
  for (const std::int64_t given_up : {1, 3}) {
    for (const std::int64_t operations : {0, 2, 5, 8}) {
      const auto pool = disk.pool();
      PagedCache cache(pool, kTokens);
      disk.gate.close_after(operations);
      const quire::test::OpensWhen opener(
          disk.gate, [&] { return pool->tier_counts()->given_up >= given_up; });
      // (After three in vain it fails at once, as often as one asks before the disk is back.)
      const Outcome outcome = read_through(cache, text.all, text.expected, 1'000'000);
      ASSERT_TRUE(outcome.is_finished && outcome.is_right) << operations;
      const TierCounts counts = *pool->tier_counts();
      ASSERT_GT(counts.given_up, 0) << operations;
      stalls += outcome.errors > 0 ? 0 : 1;
      losses += counts.lost > 0 ? 1 : 0;
    }
  }
  EXPECT_GT(stalls, 0) << "some were over when it was tried again";
  EXPECT_GT(losses, 0) << "some outlasted that";
}

TEST(Tier, D10_a_disk_that_never_answers_ends_in_an_error_and_holds_nothing_up) {
  const Text text;
  StallingDisk disk;
  std::int64_t ended = 0;
  for (const std::int64_t operations : {0, 2, 5, 8}) {
    const auto pool = disk.pool();
    PagedCache cache(pool, kTokens);
    disk.gate.close_after(operations);
    const Outcome outcome = read_through(cache, text.all, text.expected, 20);
    ASSERT_TRUE(outcome.is_right) << operations;
    ASSERT_FALSE(outcome.is_finished) << operations;
    ASSERT_GE(pool->tier_counts()->given_up, TimedFile::kMostInARow);
    ASSERT_LE(pool->tier_counts()->given_up, 2 * TimedFile::kMostInARow) << "of dozens of tries";
    ASSERT_THAT(message_of<IoError>([&] {
                  while (cache.length() < kTokens)
                    feed(cache, part(text.all, cache.length(), cache.length() + kChunk));
                }),
                AllOf(HasSubstr("did not answer within 50 ms"), HasSubstr("--cache-disk"),
                      HasSubstr("--cache-ram")));
    // What fits into memory goes on being served.
    cache.truncate(0);
    ASSERT_TRUE(same_bits(feed(cache, part(text.all, 0, kChunk)), text.expected[0])) << operations;
    ++ended;
    // The pool goes while the disk is still busy with a buffer of its.
    ASSERT_GT(disk.gate.waiting(), 0);
  }
  EXPECT_EQ(ended, 4);
}

TEST(Tier, K10_a_spoiled_page_of_a_prefix_is_a_miss) {
  const auto layers = some_layers();
  const Folder folder;
  quire::test::MemoryScratch* disk = nullptr;
  const quire::test::ScratchFileOps ops([&](const std::string&) {
    auto made = std::make_unique<quire::test::MemoryScratch>();
    disk = made.get();
    return made;
  });
  const auto pool = limited_pool(layers, 192, folder.path());
  Ids ids(kTokens);
  std::iota(ids.begin(), ids.end(), 0);
  const Text text;
  {
    PagedCache first(pool, kTokens);
    feed(first, text.all, ids);
  }
  {
    Rng rng(2);
    PagedCache between(pool, kTokens);
    feed(between, random_step(rng, layers, kTokens), Ids(kTokens, 7));
  }
  // The third page of layer 2, wherever the pool put it.
  {
    PagedCache probe(pool, kTokens);
    ASSERT_EQ(probe.adopt(ids), kTokens);
    const std::int32_t page = probe.table()[2];
    PagedCache other(pool, kTokens);
    Rng rng(3);
    probe.truncate(0);
    feed(other, random_step(rng, layers, kTokens), Ids(kTokens, 8));
    disk->flip(static_cast<std::size_t>((2 * 12 + page) * pool->tier_counts()->record_bytes + 100));
  }
  PagedCache again(pool, kTokens);
  const std::int64_t known = again.adopt(ids);
  EXPECT_EQ(known, 32);
  EXPECT_EQ(pool->tier_counts()->lost, 1);
  EXPECT_EQ(pool->counts().lost, 1);
  feed(again, part(text.all, known, kTokens), Ids(ids.begin() + known, ids.end()));
  // Read again, it is known again.
  PagedCache later(pool, kTokens);
  EXPECT_EQ(later.adopt(ids), kTokens);
  ContiguousCache plain(layers, 200, DType::kF32);
  feed(plain, text.all);
  Rng rng(4);
  const Step more = random_step(rng, layers, 1);
  PagedCache longer(pool, 200);
  longer.adopt(ids);
  EXPECT_TRUE(same_bits(feed(longer, more), feed(plain, more)));
}

TEST(Tier, refuses_impossible_specs_and_arguments) {
  const Folder folder;
  TierSpec spec;
  spec.layers = 3;
  spec.pages = 4;
  spec.frames = 7;
  spec.folder = folder.path();
  spec.payload_bytes = 8;
  EXPECT_THAT(message_of<ArgumentError>([&] { Tier tier(spec); }), HasSubstr("7 frames"));
  spec.frames = 8;
  spec.layers = 0;
  EXPECT_THROW(Tier tier(spec), ArgumentError);
  spec.layers = 3;
  spec.parts = [](std::int32_t, std::int64_t) { return std::array<std::span<std::byte>, 3>(); };
  Tier tier(spec);
  const std::int32_t page = 4, fine = 3;
  EXPECT_THAT(message_of<ArgumentError>([&] { tier.lease(0, {&page, 1}); }), HasSubstr("page 4"));
  EXPECT_THAT(message_of<ArgumentError>([&] {
                tier.lease(3, {&fine, 1});
              }),
              HasSubstr("layer is 3"));
  EXPECT_THROW(tier.forget(-1), ArgumentError);
  EXPECT_THROW(static_cast<void>(tier.is_lost(4)), ArgumentError);
  EXPECT_EQ(tier.check({&fine, 1}), std::vector<bool>{true});
}

TEST(Tier, a_share_of_each_layer_stays_and_the_rest_streams) {
  const auto layers = std::vector<LayerSpec>(10, layer_of(2, 1, 16, 16));
  const Folder folder;
  // 8 pages in 10 layers; two layers and 32 frames more.
  const auto pool = limited_pool(layers, 128, folder.path(), 16, DType::kF32, 32);
  PagedCache cache(pool, 128);
  Rng rng(5);
  feed(cache, random_step(rng, layers, 115));
  for (int warm = 0; warm < 3; ++warm) feed(cache, random_step(rng, layers, 1));
  const TierCounts before = *pool->tier_counts();
  for (int step = 0; step < 4; ++step) feed(cache, random_step(rng, layers, 1));
  const TierCounts after = *pool->tier_counts();
  const double read = static_cast<double>(after.bytes_read - before.bytes_read) /
                      static_cast<double>(4 * before.record_bytes);
  // At best all but the 32 and what goes from one layer to the next stays: 80 − 48 + 8.
  EXPECT_LE(read, 42);
  EXPECT_GE(read, 32);
  EXPECT_EQ(after.waits, before.waits) << "everything was read ahead";
  EXPECT_EQ(after.bytes_written, before.bytes_written) << "the page that grows stays";
}

TEST(TierModelTest, I4_I5_I8_K2_random_operations_agree_with_a_shadow) {
  TierModel sound(TierModel::Disk::kSound, 1);
  sound.run(20'000);
  EXPECT_EQ(sound.errors(), 0);
  EXPECT_GT(sound.read_back(), 1'000);
  TierModel flaky(TierModel::Disk::kFlaky, 2);
  flaky.run(20'000);
  EXPECT_GT(flaky.errors(), 20);
  EXPECT_GT(flaky.read_back(), 1'000);
}

}  // namespace
}  // namespace quire::cache

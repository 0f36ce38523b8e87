// Tiered caches under a memory limit: not a bit depends on it.
#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <atomic>

#include "quire/base/thread_pool.h"
#include "quire/cache/contiguous.h"
#include "quire/cache/tiered.h"
#include "quire/cache/tiered_pages.h"
#include "tests/cache/steps.h"
#include "tests/cache/tiered.h"
#include "tests/support/fault_file_ops.h"
#include "tests/support/memory_scratch.h"

namespace quire::cache {
namespace {

using quire::test::FaultFileOps;
using quire::test::MemoryScratch;
using quire::test::ScratchFileOps;
using test::feed;
using test::Folder;
using test::layer_of;
using test::message_of;
using test::part;
using test::random_step;
using test::same_bits;
using test::small_zones;
using test::Step;
using testing::HasSubstr;

/// Of one size, as a memory limit asks for; one has fewer heads.
std::vector<LayerSpec> some_layers(std::size_t count = 5) {
  std::vector<LayerSpec> layers(count, layer_of(4, 2, 16, 16));
  layers[1] = layer_of(2, 2, 20, 12);
  return layers;
}

TieredSpec limited(TieredSpec spec, const std::vector<LayerSpec>& layers, std::int64_t capacity,
                   DType kv, const std::string& folder, std::int64_t more = 0) {
  const std::int64_t least = TieredPages::least_ram_bytes(layers, capacity, kv);
  spec.memory = {least + more, folder, 0};
  return spec;
}

/// A document of 240 tokens, steps of several sizes, an answer that is taken back, another one.
std::vector<std::vector<float>> run(TieredCache& cache, const Step& all) {
  std::vector<std::vector<float>> out;
  const auto go = [&](std::int64_t end) {
    out.push_back(feed(cache, part(all, cache.length(), end)));
  };
  go(90);
  go(240);
  cache.end_reading();
  for (const std::int64_t end : {241, 270, 400, 401}) go(end);
  cache.truncate(260);
  go(310);
  cache.truncate(240);
  go(242);
  go(340);
  return out;
}

TEST(TieredFile, HET_06_contract_6_I7_a_memory_limit_changes_no_bit) {
  const Folder folder;
  const auto layers = some_layers();
  for (const DType kv : {DType::kF32, DType::kF16, DType::kI8}) {
    for (const std::int64_t two_levels : {std::int64_t{0}, std::int64_t{100000}}) {
      if ((two_levels == 0) != (kv == DType::kF16)) continue;
      Rng rng(1);
      const Step all = random_step(rng, layers, 420);
      TieredSpec spec = small_zones({.tokens = 60});
      spec.two_levels_from = two_levels;
      spec.opened = 2;
      TieredCache stays(layers, spec, 420, kv);
      const auto expected = run(stays, all);
      EXPECT_FALSE(stays.tier_counts().has_value());
      TieredCache moves(layers, limited(spec, layers, 420, kv, folder.path()), 420, kv);
      const auto got = run(moves, all);
      for (std::size_t i = 0; i < expected.size(); ++i)
        EXPECT_TRUE(same_bits(got[i], expected[i])) << to_string(kv) << " step " << i;
      EXPECT_EQ(moves.report().bytes_read, stays.report().bytes_read);
      EXPECT_EQ(moves.report().bytes_stored, stays.report().bytes_stored);
      ASSERT_TRUE(moves.tier_counts().has_value());
      EXPECT_GT(moves.tier_counts()->bytes_read, 0);
      EXPECT_GT(moves.tier_counts()->ahead, 0);
      EXPECT_LE(moves.tier_counts()->in_memory, moves.tier_counts()->frames);
      EXPECT_GT(moves.figures().bytes_slow, 0);
    }
  }
}

TEST(TieredFile, HET_08_contract_1_a_budget_that_covers_all_gives_the_ordinary_bits_from_the_disk) {
  const Folder folder;
  auto layers = some_layers();
  layers[3].attention.window_left = 50;
  for (const DType kv : {DType::kF16, DType::kI8}) {
    Rng rng(2);
    const Step all = random_step(rng, layers, 500);
    TieredCache cache(layers,
                      limited(small_zones({.fraction = 1}), layers, 500, kv, folder.path(), 4000),
                      500, kv);
    ContiguousCache exact(layers, 500, kv);
    for (const auto& [begin, end] : {std::pair{0, 333}, {333, 334}, {334, 450}, {450, 500}}) {
      if (begin == 333) cache.end_reading();
      const Step step = part(all, begin, end);
      ASSERT_TRUE(same_bits(feed(cache, step), feed(exact, step))) << to_string(kv) << begin;
    }
    EXPECT_GT(cache.tier_counts()->bytes_read, 0);
  }
}

TEST(TieredFile, D18_contract_7_the_same_without_io_uring_and_with_more_threads) {
  const Folder folder;
  const auto layers = some_layers();
  Rng rng(3);
  const Step all = random_step(rng, layers, 420);
  const TieredSpec spec =
      limited(small_zones({.tokens = 60}), layers, 420, DType::kF16, folder.path());
  std::vector<std::vector<std::vector<float>>> outputs;
  const int threads = thread_pool().threads();
  for (const char* io : {"pread", ""}) {
    ::setenv("QUIRE_IO", io, 1);
    set_threads(*io == '\0' ? 3 : 1);
    TieredCache cache(layers, spec, 420, DType::kF16);
    outputs.push_back(run(cache, all));
    if (outputs.size() == 1) {
      EXPECT_STREQ(cache.tier_counts()->method, "pread");
    }
  }
  ::unsetenv("QUIRE_IO");
  set_threads(threads);
  for (std::size_t i = 0; i < outputs[0].size(); ++i)
    EXPECT_TRUE(same_bits(outputs[0][i], outputs[1][i])) << i;
}

TEST(TieredFile, HET_06_a_step_reads_from_the_disk_about_what_it_selected) {
  const Folder folder;
  const std::vector<LayerSpec> layers(6, layer_of(2, 1, 32, 32));
  Rng rng(4);
  const Step all = random_step(rng, layers, 3010);
  TieredCache cache(layers,
                    limited(small_zones({.tokens = 64}), layers, 3010, DType::kF16, folder.path()),
                    3010, DType::kF16);
  feed(cache, part(all, 0, 3000));
  cache.end_reading();
  for (std::int64_t n = 3000; n < 3004; ++n) feed(cache, part(all, n, n + 1));
  const TierCounts before = *cache.tier_counts();
  for (std::int64_t n = 3004; n < 3010; ++n) feed(cache, part(all, n, n + 1));
  const TierCounts after = *cache.tier_counts();
  const auto read = static_cast<double>(after.bytes_read - before.bytes_read) / 6,
             full = static_cast<double>(3000 * cache.bytes_per_token());
  EXPECT_GT(read, 0);
  EXPECT_LT(read, 0.2 * full);
  // Of each layer at most the page that grows.
  EXPECT_LE(after.bytes_written - before.bytes_written, 6 * 6 * after.record_bytes);
}

/// A document under faults, as a session reads it: what a disk lost is read again. True when all
/// that came is right.
struct Outcome {
  int errors = 0;
  bool is_finished = false, is_right = true;
};
Outcome run_through(TieredCache& cache, const Step& all,
                    const std::vector<std::vector<float>>& expected, int patience) {
  const std::int64_t ends[] = {64, 128, 192, 193, 230, 290};
  Outcome out;
  for (std::size_t i = 0; i < std::size(ends) && out.errors <= patience;) {
    try {
      if (ends[i] == 193 && cache.length() == 192) cache.end_reading();
      const std::int64_t at = cache.length();
      const auto got = feed(cache, part(all, at, ends[i]));
      const auto& want = expected[i];
      // After a loss a step may begin anywhere: its last rows are those of the expected ones.
      const std::size_t L = all.q.size(), rows = got.size() / L, per = want.size() / L;
      if (rows > per) return {out.errors, false, false};
      for (std::size_t l = 0; l < L; ++l)
        out.is_right =
            out.is_right &&
            std::memcmp(got.data() + l * rows, want.data() + (l + 1) * per - rows, 4 * rows) == 0;
      ++i;
    } catch (const IoError&) {
      ++out.errors;
      if (cache.recover()) {
        // Chunk by chunk again.
        while (i > 0 && cache.length() < ends[i - 1]) --i;
        if (cache.length() % 64 != 0) cache.truncate(cache.length() / 64 * 64);
      } else {
        return out;  // the error is the answer
      }
    }
  }
  out.is_finished = cache.length() == 290;
  return out;
}

struct Document {
  std::vector<LayerSpec> layers = some_layers(4);
  Step all;
  std::vector<std::vector<float>> expected;
  TieredSpec spec = small_zones({.tokens = 32});
  Document() {
    Rng rng(5);
    all = random_step(rng, layers, 290);
    TieredCache cache(layers, spec, 290, DType::kF32);
    for (const std::int64_t end : {64, 128, 192, 193, 230, 290}) {
      if (end == 193) cache.end_reading();
      expected.push_back(feed(cache, part(all, cache.length(), end)));
    }
  }
  TieredCache make(const std::string& folder) const {
    return {layers, limited(spec, layers, 290, DType::kF32, folder), 290, DType::kF32};
  }
};

TEST(TieredFile, D1_D2_I6_one_fault_at_any_file_operation_costs_time_and_nothing_else) {
  const Document text;
  const Folder folder;
  std::int64_t operations = 0;
  {
    const FaultFileOps none(0);
    TieredCache cache = text.make(folder.path());
    const Outcome outcome = run_through(cache, text.all, text.expected, 0);
    ASSERT_TRUE(outcome.is_finished && outcome.is_right);
    operations = none.operations();
  }
  ASSERT_GT(operations, 200);
  for (const int error : {EIO, ENOSPC}) {
    for (std::int64_t n = 3; n <= operations; n += 1 + n / 5) {
      const FaultFileOps faults(n, FaultFileOps::Lasts::kOnce, error);
      TieredCache cache = text.make(folder.path());
      const Outcome outcome = run_through(cache, text.all, text.expected, 0);
      ASSERT_TRUE(outcome.is_finished && outcome.is_right) << "operation " << n;
      ASSERT_EQ(cache.tier_counts()->lost, 0);
    }
  }
}

TEST(TieredFile, D1_D2_a_disk_that_dies_ends_in_an_error_or_the_right_bits) {
  const Document text;
  const Folder folder;
  int ended = 0;
  for (const int error : {EIO, ENOSPC}) {
    for (std::int64_t n = 3; n < 400; n += 1 + n / 8) {
      const FaultFileOps faults(n, FaultFileOps::Lasts::kForEver, error);
      TieredCache cache = text.make(folder.path());
      const Outcome outcome = run_through(cache, text.all, text.expected, 3);
      ASSERT_TRUE(outcome.is_right) << n;
      if (outcome.is_finished) continue;
      ++ended;
      // What fits into memory goes on being served.
      cache.truncate(0);
      ASSERT_TRUE(same_bits(feed(cache, part(text.all, 0, 64)), text.expected[0])) << n;
    }
  }
  EXPECT_GT(ended, 20);
}

/// A disk that spoils one of so many reads.
class SpoilingOps final : public ScratchFileOps {
 public:
  explicit SpoilingOps(int every)
      : ScratchFileOps([every](const std::string&) { return std::make_unique<Disk>(every); }) {}

 private:
  class Disk final : public MemoryScratch {
   public:
    explicit Disk(int every) : every_(every) {}
    void read(std::span<Transfer> transfers) override {
      MemoryScratch::read(transfers);
      for (const Transfer& t : transfers)
        if (++reads_ % every_ == 0) t.parts[0][t.parts[0].size() / 2] ^= std::byte{16};
    }

   private:
    int every_, reads_ = 0;
  };
};

TEST(TieredFile, D4_what_comes_back_changed_is_never_attended_to) {
  const Document text;
  int ended = 0, lived = 0;
  for (const int every : {2, 3, 7, 31, 200}) {
    const SpoilingOps ops(every);
    TieredCache cache = text.make("memory");
    const Outcome outcome = run_through(cache, text.all, text.expected, 100);
    ASSERT_TRUE(outcome.is_right) << every;
    (outcome.is_finished ? lived : ended) += 1;
  }
  EXPECT_GT(lived, 0);
  const SpoilingOps ops(1);
  TieredCache cache = text.make("memory");
  const Outcome outcome = run_through(cache, text.all, text.expected, 3);
  EXPECT_TRUE(outcome.is_right);
  EXPECT_FALSE(outcome.is_finished);
  EXPECT_GT(outcome.errors, 0);
}

TEST(TieredFile, a_limit_that_cannot_be_is_refused_and_a_wide_one_needs_no_file) {
  const Folder folder;
  auto layers = some_layers();
  const std::int64_t least = TieredPages::least_ram_bytes(layers, 600, DType::kF16);
  const auto refused = [&](const MemoryLimit& memory) {
    return message_of([&] { TieredCache::check_memory(layers, 600, DType::kF16, memory); });
  };
  EXPECT_THAT(refused({least - 1, folder.path(), 0}), HasSubstr(std::to_string(least)));
  EXPECT_THAT(refused({least, folder.path(), 1000}), HasSubstr("--cache-disk may take 1000"));
  EXPECT_THAT(refused({-1, folder.path(), 0}), HasSubstr("-1"));
  TieredSpec spec = small_zones({.tokens = 60});
  spec.memory = {10 * least, folder.path() + "/none", 0};
  EXPECT_FALSE(TieredCache(layers, spec, 600, DType::kF16).tier_counts().has_value());
  EXPECT_FALSE(std::filesystem::exists(folder.path() + "/none"));
  layers[2] = layer_of(2, 2, 64, 64);
  EXPECT_THAT(refused({2 * least, folder.path(), 0}), HasSubstr("differ in size"));
}

}  // namespace
}  // namespace quire::cache

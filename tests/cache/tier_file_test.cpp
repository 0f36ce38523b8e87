#include "quire/cache/tier_file.h"

#include <gtest/gtest.h>
#include <sys/resource.h>

#include <cerrno>
#include <csignal>
#include <cstring>
#include <vector>

#include "quire/tensor/rng.h"
#include "tests/cache/tiered.h"
#include "tests/support/memory_scratch.h"

namespace quire::cache {
namespace {

using Fate = TierRecord::Fate;
using quire::test::MemoryScratch;

constexpr std::int64_t kPayload = 1000;
constexpr Hash128 kTier{1, 2}, kFormat{3, 4};

/// A record whose bytes follow from its key.
struct Content {
  std::vector<std::byte> bytes = std::vector<std::byte>(kPayload);
  TierRecord record;

  explicit Content(RecordKey key, std::int64_t place = 0) {
    Rng rng(key.version * 1000 + static_cast<std::uint64_t>(key.page * 10 + key.layer));
    for (std::byte& b : bytes) b = static_cast<std::byte>(rng.below(256));
    record = {place, key, {}, parts(), Fate::kWhole, 0};
  }
  std::array<std::span<std::byte>, 3> parts() {
    const std::span all(bytes);
    return {all.first(600), all.subspan(600, 0), all.subspan(600)};
  }
};

/// What comes back under this record's key and checksum.
Fate read_back(TierFile& file, const TierRecord& written, std::vector<std::byte>* bytes = nullptr) {
  std::vector<std::byte> memory(kPayload, std::byte{0xee});
  TierRecord record = written;
  const std::span all(memory);
  record.parts = {all.first(100), all.subspan(100, 500), all.subspan(600)};
  file.read({&record, 1});
  if (bytes != nullptr) *bytes = memory;
  return record.fate;
}

TEST(TierFile, I8_what_was_written_comes_back) {
  const test::Folder folder;
  TierFile file(open_system_scratch(folder.path()), kTier, kFormat, kPayload);
  EXPECT_EQ(file.record_bytes(), kPayload + TierFile::header_bytes());
  std::vector<Content> contents;
  for (std::int32_t i = 0; i < 100; ++i)
    contents.emplace_back(RecordKey{i % 7, i, static_cast<std::uint64_t>(i)}, (i * 37) % 100);
  std::vector<TierRecord> records;
  for (const Content& content : contents) records.push_back(content.record);
  file.write(records);
  for (std::size_t i = 0; i < records.size(); ++i) {
    EXPECT_EQ(records[i].fate, Fate::kWhole);
    std::vector<std::byte> bytes;
    EXPECT_EQ(read_back(file, records[i], &bytes), Fate::kWhole);
    EXPECT_EQ(bytes, contents[i].bytes);
  }
}

TEST(TierFile, D4_D17_any_changed_byte_is_no_record) {
  auto memory = std::make_unique<MemoryScratch>();
  MemoryScratch* disk = memory.get();
  TierFile file(std::move(memory), kTier, kFormat, kPayload);
  Content content({3, 5, 7});
  file.write({&content.record, 1});
  const std::string good = disk->content();
  ASSERT_EQ(static_cast<std::int64_t>(good.size()), file.record_bytes());
  ASSERT_EQ(read_back(file, content.record), Fate::kWhole);
  for (std::size_t at = 0; at < good.size(); ++at) {
    for (const int bit : {0, 7}) {
      std::string bad = good;
      bad[at] = static_cast<char>(bad[at] ^ (1 << bit));
      disk->set_content(bad);
      ASSERT_EQ(read_back(file, content.record), Fate::kWrong) << "byte " << at;
    }
  }
  // A length of 2^63: nothing is allocated by it.
  std::string bad = good;
  for (std::size_t at = 0; at + 8 <= 96; at += 8) {
    const std::uint64_t length = std::uint64_t{1} << 63;
    std::memcpy(bad.data() + at, &length, sizeof length);
    disk->set_content(bad);
    ASSERT_EQ(read_back(file, content.record), Fate::kWrong);
    bad = good;
  }
  disk->set_content(good);
  EXPECT_EQ(read_back(file, content.record), Fate::kWhole);
}

TEST(TierFile, D3_a_torn_write_is_no_record) {
  auto memory = std::make_unique<MemoryScratch>();
  MemoryScratch* disk = memory.get();
  TierFile file(std::move(memory), kTier, kFormat, kPayload);
  Content before({3, 5, 6}), content({3, 5, 7});
  file.write({&before.record, 1});
  const std::string old = disk->content();
  file.write({&content.record, 1});
  const std::string good = disk->content();
  for (std::size_t k = 0; k < good.size(); ++k) {
    disk->set_content(good.substr(0, k));  // and the file ends
    ASSERT_NE(read_back(file, content.record), Fate::kWhole) << k;
    disk->set_content(good.substr(0, k) + std::string(good.size() - k, '\0'));
    const bool is_same = good.find_first_not_of('\0', k) == std::string::npos;
    ASSERT_EQ(read_back(file, content.record) == Fate::kWhole, is_same) << k;
    disk->set_content(good.substr(0, k) + old.substr(k));  // the rest is what stood there before
    ASSERT_NE(read_back(file, content.record), Fate::kWhole) << k;
    ASSERT_EQ(read_back(file, before.record) == Fate::kWhole, good.substr(0, k) == old.substr(0, k))
        << k;
  }
}

TEST(TierFile, D5_a_record_under_another_key_is_no_record) {
  auto memory = std::make_unique<MemoryScratch>();
  MemoryScratch* disk = memory.get();
  TierFile file(std::move(memory), kTier, kFormat, kPayload);
  Content a({0, 1, 1}, 0), b({0, 2, 2}, 1), c({1, 1, 3}, 2);
  std::vector<TierRecord> records = {a.record, b.record, c.record};
  file.write(records);
  const std::string good = disk->content();
  const auto size = static_cast<std::size_t>(file.record_bytes());
  for (std::size_t i = 0; i < 3; ++i) {
    for (std::size_t j = 0; j < 3; ++j) {
      std::string swapped = good;
      swapped.replace(i * size, size, good.substr(j * size, size));
      disk->set_content(swapped);
      ASSERT_EQ(read_back(file, records[i]) == Fate::kWhole, i == j) << i << " is now " << j;
    }
  }
  disk->set_content(good);
  // Each part of the key counts by itself, with the right data and checksum beside it.
  for (const RecordKey key : {RecordKey{1, 1, 1}, RecordKey{0, 2, 1}, RecordKey{0, 1, 2}}) {
    TierRecord other = records[0];
    other.key = key;
    EXPECT_EQ(read_back(file, other), Fate::kWrong);
  }
  TierRecord other = records[0];
  other.sum.low += 1;
  EXPECT_EQ(read_back(file, other), Fate::kWrong);
}

TEST(TierFile, D9_K5_of_another_tier_format_or_size_is_no_record) {
  auto memory = std::make_unique<MemoryScratch>();
  MemoryScratch* disk = memory.get();
  TierFile file(std::move(memory), kTier, kFormat, kPayload);
  Content content({3, 5, 7});
  file.write({&content.record, 1});
  const std::string good = disk->content();
  const auto reads = [&](const Hash128& tier, const Hash128& format) {
    auto copy = std::make_unique<MemoryScratch>();
    copy->set_content(good);
    TierFile other(std::move(copy), tier, format, kPayload);
    return read_back(other, content.record);
  };
  EXPECT_EQ(reads(kTier, kFormat), Fate::kWhole);
  EXPECT_EQ(reads({1, 9}, kFormat), Fate::kWrong);
  EXPECT_EQ(reads(kTier, {9, 4}), Fate::kWrong);
  std::string version = good;
  version[8] = 2;
  disk->set_content(version);
  EXPECT_EQ(read_back(file, content.record), Fate::kWrong);
}

TEST(TierFile, a_version_that_was_overwritten_does_not_come_back) {
  const test::Folder folder;
  TierFile file(open_system_scratch(folder.path()), kTier, kFormat, kPayload);
  Content first({0, 0, 1}), second({0, 0, 2});
  file.write({&first.record, 1});
  file.write({&second.record, 1});
  EXPECT_EQ(read_back(file, first.record), Fate::kWrong);
  EXPECT_EQ(read_back(file, second.record), Fate::kWhole);
}

TEST(TierFile, D1_a_write_beyond_the_limit_of_file_sizes_fails_and_the_rest_goes_on) {
  const test::Folder folder;
  for (const char* io : {"pread", ""}) {
    ::setenv("QUIRE_IO", io, 1);
    TierFile file(open_system_scratch(folder.path()), kTier, kFormat, kPayload);
    rlimit before{};
    ASSERT_EQ(::getrlimit(RLIMIT_FSIZE, &before), 0);
    const rlimit small{static_cast<rlim_t>(2 * file.record_bytes() + 100), before.rlim_max};
    std::signal(SIGXFSZ, SIG_IGN);  // as the command line does
    std::vector<Content> contents;
    for (std::int32_t i = 0; i < 4; ++i) contents.emplace_back(RecordKey{0, i, 1}, i);
    std::vector<TierRecord> records;
    for (const Content& content : contents) records.push_back(content.record);
    ASSERT_EQ(::setrlimit(RLIMIT_FSIZE, &small), 0);
    file.write(records);
    ASSERT_EQ(::setrlimit(RLIMIT_FSIZE, &before), 0);
    for (std::size_t i = 0; i < 4; ++i) {
      EXPECT_EQ(records[i].fate, i < 2 ? Fate::kWhole : Fate::kFailed) << i << io;
      EXPECT_EQ(records[i].error, i < 2 ? 0 : EFBIG) << i << io;
      EXPECT_EQ(read_back(file, records[i]) == Fate::kWhole, i < 2) << i << io;
    }
  }
  ::unsetenv("QUIRE_IO");
}

}  // namespace
}  // namespace quire::cache

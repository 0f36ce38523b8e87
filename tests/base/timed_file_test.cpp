#include "quire/base/timed_file.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <algorithm>
#include <cerrno>
#include <cstring>
#include <map>
#include <vector>

#include "quire/base/error.h"
#include "tests/support/folder.h"
#include "tests/support/message_of.h"
#include "tests/support/stalling_scratch.h"

namespace quire {
namespace {

using std::chrono::milliseconds;
using test::Gate;
using test::StallingScratch;
using testing::Each;
using testing::ElementsAre;

/// A record that follows from its number.
void fill(std::int64_t number, std::span<std::byte> bytes) {
  for (std::size_t at = 0; at < bytes.size(); ++at)
    bytes[at] = static_cast<std::byte>(static_cast<std::size_t>(number) * 31 + at % 251);
}
bool is_record(std::int64_t number, std::span<const std::byte> bytes) {
  std::vector<std::byte> expected(bytes.size());
  fill(number, expected);
  return std::ranges::equal(bytes, expected);
}

/// The errors of writing, or of reading, records that follow from their places; of those without
/// one the bytes are compared.
std::vector<int> write(TimedFile& file, const std::vector<std::int64_t>& places) {
  std::vector<int> errors;
  file.write(
      places, [&](std::size_t i, std::span<std::byte> bytes) { fill(places[i], bytes); },
      [&](std::size_t i, std::span<const std::byte>, int error) {
        EXPECT_EQ(i, errors.size());
        errors.push_back(error);
      });
  EXPECT_EQ(errors.size(), places.size());
  return errors;
}
std::vector<int> read(TimedFile& file, const std::vector<std::int64_t>& places) {
  std::vector<int> errors;
  file.read(places, [&](std::size_t i, std::span<const std::byte> bytes, int error) {
    EXPECT_EQ(i, errors.size());
    errors.push_back(error);
    if (error != 0) return;
    EXPECT_EQ(std::ssize(bytes), file.record_bytes());
    EXPECT_TRUE(is_record(places[i], bytes)) << "record " << places[i];
  });
  EXPECT_EQ(errors.size(), places.size());
  return errors;
}

std::vector<std::int64_t> places_up_to(std::int64_t count) {
  std::vector<std::int64_t> out;
  for (std::int64_t i = 0; i < count; ++i) out.push_back(i * 7 % count);
  return out;
}

TEST(TimedFile, what_was_written_comes_back_in_one_buffer_or_many) {
  const test::Folder folder;
  // Of the last size a buffer holds one record, of the one before it three.
  for (const std::int64_t bytes : {1, 96, 5'000, 1'300'000, 4'300'000}) {
    TimedFile file(open_system_scratch(folder.path()), bytes, TimedFile::kDeadline);
    const auto places = places_up_to(bytes < 10'000 ? 3'000 : 4);
    EXPECT_THAT(write(file, places), Each(0)) << bytes;
    EXPECT_THAT(read(file, places), Each(0)) << bytes;
    EXPECT_TRUE(read(file, {}).empty());
    EXPECT_EQ(file.given_up(), 0);
  }
}

TEST(TimedFile, D2_each_record_tells_its_own_error) {
  const test::Folder folder;
  TimedFile file(open_system_scratch(folder.path()), 2'000, TimedFile::kDeadline);
  EXPECT_THAT(write(file, {0, 1, 2}), Each(0));
  EXPECT_THAT(read(file, {2, 9, 0}), ElementsAre(0, EIO, 0));
}

TEST(TimedFile, D10_a_disk_that_stalls_is_given_up_and_used_again_when_it_answers) {
  Gate gate;
  TimedFile file(std::make_unique<StallingScratch>(gate), 2'000'000, milliseconds(100));
  const auto places = places_up_to(9);
  ASSERT_THAT(write(file, places), Each(0));
  gate.close_after(2);  // buffers of two records
  EXPECT_THAT(read(file, places),
              ElementsAre(0, 0, 0, 0, ETIMEDOUT, ETIMEDOUT, ETIMEDOUT, ETIMEDOUT, ETIMEDOUT));
  EXPECT_EQ(file.given_up(), 1);
  EXPECT_EQ(gate.waiting(), 1);
  gate.open();
  EXPECT_THAT(read(file, places), Each(0)) << "what came late is nobody's";
  EXPECT_EQ(file.given_up(), 1);
  gate.close_after(0);
  EXPECT_THAT(write(file, {3, 4}), Each(ETIMEDOUT));
  gate.open();
  EXPECT_THAT(write(file, {3, 4}), Each(0));
  EXPECT_THAT(read(file, {4, 3}), Each(0));
}

TEST(TimedFile, D10_nobody_waits_for_a_disk_that_does_not_answer_any_more) {
  Gate gate;
  gate.close_after(0);
  TimedFile file(std::make_unique<StallingScratch>(gate), 1'000, milliseconds(20));
  for (int i = 0; i < 1'000; ++i) ASSERT_THAT(write(file, {1, 2}), Each(ETIMEDOUT));
  EXPECT_EQ(file.given_up(), TimedFile::kMostInARow) << "else this took 20 s";
  EXPECT_EQ(gate.waiting(), 1) << "one operation is under way, however many were asked for";
  // After one late answer the next one is waited for again, once.
  gate.let_through(1);
  while (file.given_up() == TimedFile::kMostInARow) write(file, {1, 2});
  for (int i = 0; i < 1'000; ++i) ASSERT_THAT(write(file, {1, 2}), Each(ETIMEDOUT));
  EXPECT_EQ(file.given_up(), TimedFile::kMostInARow + 1);
  gate.open();
  while (write(file, {1, 2}) != std::vector<int>{0, 0}) {
  }
  EXPECT_THAT(read(file, {1, 2}), Each(0));
}

TEST(TimedFile, D10_it_goes_while_the_system_is_still_busy) {
  Gate gate;
  {
    TimedFile file(std::make_unique<StallingScratch>(gate), 1'000, milliseconds(100));
    ASSERT_THAT(write(file, {0, 1, 2}), Each(0));
    gate.close_after(0);
    EXPECT_THAT(read(file, {0, 1, 2}), Each(ETIMEDOUT));
  }
  ASSERT_EQ(gate.files(), 1) << "its file and buffers are there as long as they are used";
  gate.open();
  gate.wait_for_no_file();  // they go without anybody
}

TEST(TimedFile, after_stop_nothing_is_begun) {
  Gate gate;
  TimedFile file(std::make_unique<StallingScratch>(gate), 1'000, TimedFile::kDeadline);
  ASSERT_THAT(write(file, {0}), Each(0));
  file.stop();
  EXPECT_THAT(read(file, {0, 0}), Each(ETIMEDOUT));
  EXPECT_EQ(file.given_up(), 0);
}

TEST(TimedFile, refuses_what_makes_no_sense) {
  Gate gate;
  const auto made = [&](std::int64_t bytes, int ms) {
    TimedFile file(std::make_unique<StallingScratch>(gate), bytes, milliseconds(ms));
  };
  EXPECT_THROW(made(0, 1), ArgumentError);
  EXPECT_THAT(test::message_of<ArgumentError>([&] { made(1, 0); }),
              testing::HasSubstr("within 0 ms"));
}

}  // namespace
}  // namespace quire

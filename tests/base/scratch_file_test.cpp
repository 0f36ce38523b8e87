#include "quire/base/scratch_file.h"

#include <gtest/gtest.h>
#include <unistd.h>

#include <cerrno>
#include <cstdlib>
#include <filesystem>
#include <string>
#include <vector>

#include "quire/base/error.h"
#include "quire/base/file_ops.h"
#include "tests/support/folder.h"

namespace quire {
namespace {

class ScratchFileTest : public testing::TestWithParam<const char*> {
 protected:
  void SetUp() override { ::setenv("QUIRE_IO", GetParam(), 1); }
  void TearDown() override { ::unsetenv("QUIRE_IO"); }

  const test::Folder made_;
  const std::string& folder_ = made_.path();
};

TEST_P(ScratchFileTest, many_transfers_of_many_parts_go_and_come) {
  const auto file = file_ops().open_scratch(folder_);
  if (std::string(GetParam()) == "pread") {
    EXPECT_STREQ(file->method(), "pread");
  }
  EXPECT_EQ(file->folder(), folder_);
  EXPECT_TRUE(std::filesystem::is_empty(folder_)) << "it has a name";
  constexpr std::size_t kCount = 100, kBytes = 5000;  // more than go at once
  std::vector<std::byte> out(kCount * kBytes), in(kCount * kBytes);
  for (std::size_t i = 0; i < out.size(); ++i) out[i] = static_cast<std::byte>(i * i / 7);
  const auto transfers = [](std::vector<std::byte>& from, std::size_t cut) {
    std::vector<Transfer> list;
    for (std::size_t i = 0; i < kCount; ++i) {
      const auto all = std::span(from).subspan(i * kBytes, kBytes);
      list.push_back(
          {(kCount - 1 - i) * kBytes,
           {all.first(cut), all.subspan(cut, 0), all.subspan(cut, 1), all.subspan(cut + 1)},
           -1});
    }
    return list;
  };
  auto writes = transfers(out, 17), reads = transfers(in, 4096);
  file->write(writes);
  file->read(reads);
  for (std::size_t i = 0; i < kCount; ++i) EXPECT_EQ(writes[i].error + reads[i].error, 0);
  EXPECT_EQ(in, out);
}

TEST_P(ScratchFileTest, D2_each_transfer_tells_its_own_error) {
  const auto file = file_ops().open_scratch(folder_);
  std::vector<std::byte> bytes(300, std::byte{1}), got(300);
  Transfer write{0, {std::span(bytes)}, -1};
  file->write({&write, 1});
  ASSERT_EQ(write.error, 0);
  std::vector<Transfer> reads = {{0, {std::span(got).first(300)}, -1},
                                 {100, {std::span(got).first(300)}, -1},  // ends early
                                 {1000, {std::span(got).first(1)}, -1},
                                 {0, {}, -1}};
  file->read(reads);
  EXPECT_EQ(reads[0].error, 0);
  EXPECT_EQ(reads[1].error, EIO);
  EXPECT_EQ(reads[2].error, EIO);
  EXPECT_EQ(reads[3].error, 0);  // nothing to do
}

INSTANTIATE_TEST_SUITE_P(Methods, ScratchFileTest, testing::Values("", "pread"));

TEST(ScratchFile, a_folder_that_is_none_is_an_error) {
  EXPECT_THROW(file_ops().open_scratch("/nowhere/at/all"), IoError);
  EXPECT_THROW(open_system_scratch("/proc/self/status"), IoError);
}

}  // namespace
}  // namespace quire

#include "quire/base/file_ops.h"

#include <fcntl.h>
#include <gmock/gmock.h>
#include <gtest/gtest.h>
#include <signal.h>
#include <sys/resource.h>
#include <sys/stat.h>
#include <sys/wait.h>
#include <unistd.h>

#include <filesystem>
#include <fstream>
#include <string>
#include <vector>

#include "quire/base/error.h"
#include "tests/support/fault_file_ops.h"
#include "tests/support/folder.h"

namespace quire {
namespace {

namespace fs = std::filesystem;
using testing::HasSubstr;

/// A folder of its own for each test.
class FileOpsTest : public testing::Test {
 protected:
  std::string path(const std::string& name) const { return (folder_ / name).string(); }
  std::string make(const std::string& name, const std::string& content) const {
    std::ofstream(path(name), std::ios::binary) << content;
    return path(name);
  }
  std::vector<std::string> names() const {
    std::vector<std::string> out;
    for (const auto& entry : fs::directory_iterator(folder_))
      out.push_back(entry.path().filename());
    return out;
  }

  const test::Folder made_;
  const fs::path folder_ = made_.path();
};

std::string content_of(const std::string& path) {
  std::ifstream in(path, std::ios::binary);
  return {std::istreambuf_iterator<char>(in), {}};
}

void write(const std::string& path, const std::vector<std::string>& texts) {
  std::vector<std::span<const std::byte>> parts;
  for (const std::string& text : texts) parts.push_back(std::as_bytes(std::span(text)));
  file_ops().write_whole(path, parts);
}

std::string refusal(const std::string& path) {
  try {
    file_ops().open(path);
  } catch (const IoError& error) {
    return error.what();
  }
  return "opened";
}

TEST_F(FileOpsTest, reads_at_offsets) {
  const auto file = file_ops().open(make("a", "0123456789"));
  EXPECT_EQ(file->size(), 10u);
  EXPECT_EQ(file->path(), path("a"));
  std::string out(4, ' ');
  file->read_at(3, std::as_writable_bytes(std::span(out)));
  EXPECT_EQ(out, "3456");
  file->read_at(10, {});
}

TEST_F(FileOpsTest, reading_past_the_end_is_a_format_error_with_the_offset) {
  const auto file = file_ops().open(make("a", "0123456789"));
  std::string out(4, ' ');
  const auto message_at = [&](std::uint64_t offset) -> std::string {
    try {
      file->read_at(offset, std::as_writable_bytes(std::span(out)));
    } catch (const FormatError& error) {
      return error.what();
    }
    return "read";
  };
  EXPECT_EQ(message_at(7), path("a") + ": at byte 10: the file ends early");
  EXPECT_EQ(message_at(100), path("a") + ": at byte 100: the file ends early");
  EXPECT_THAT(message_at(~std::uint64_t{0}), HasSubstr("the file ends early"));
}

TEST_F(FileOpsTest, G22_a_file_that_shrinks_while_open_is_a_format_error) {
  const auto file = file_ops().open(make("a", std::string(10'000, 'x')));
  fs::resize_file(path("a"), 100);
  std::vector<std::byte> out(10'000);
  EXPECT_THROW(file->read_at(0, out), FormatError);
}

TEST_F(FileOpsTest, G24_only_regular_files_open) {
  EXPECT_EQ(refusal(path("absent")), path("absent") + ": cannot open: No such file or directory");
  EXPECT_EQ(refusal(folder_.string()), folder_.string() + ": is a directory, not a file");
  EXPECT_EQ(refusal("/dev/null"), "/dev/null: is a device, not a regular file");
  EXPECT_THAT(refusal(""), HasSubstr("No such file"));
  ASSERT_EQ(::mkfifo(path("pipe").c_str(), 0600), 0);
  EXPECT_EQ(refusal(path("pipe")),
            path("pipe") + ": is a named pipe, not a regular file");  // and does not wait
  fs::create_symlink("loop", path("loop"));
  EXPECT_THAT(refusal(path("loop")), HasSubstr("Too many levels of symbolic links"));
  EXPECT_THAT(refusal(make("file", "x") + "/below"), HasSubstr("Not a directory"));
}

TEST_F(FileOpsTest, opens_through_a_symlink) {
  fs::create_symlink(make("a", "text"), path("link"));
  EXPECT_EQ(read_text(path("link"), 100), "text");
}

TEST_F(FileOpsTest, descriptors_do_not_leak_into_children) {
  const auto file = file_ops().open(make("a", "x"));
  int checked = 0;
  for (int fd = 3; fd < 64; ++fd) {
    char name[4096];
    const ssize_t n =
        ::readlink(("/proc/self/fd/" + std::to_string(fd)).c_str(), name, sizeof name);
    if (n <= 0 || std::string(name, static_cast<std::size_t>(n)) != path("a")) continue;
    EXPECT_NE(::fcntl(fd, F_GETFD) & FD_CLOEXEC, 0);
    ++checked;
  }
  EXPECT_EQ(checked, 1);
}

TEST_F(FileOpsTest, exists_for_files_and_folders) {
  EXPECT_TRUE(file_ops().exists(make("a", "")));
  EXPECT_TRUE(file_ops().exists(folder_.string()));
  EXPECT_FALSE(file_ops().exists(path("b")));
  EXPECT_FALSE(file_ops().exists(path("a") + "/b"));
}

TEST_F(FileOpsTest, writes_all_parts_and_leaves_nothing_else) {
  write(path("a"), {"one ", "", "two"});
  EXPECT_EQ(content_of(path("a")), "one two");
  write(path("a"), {"3"});
  EXPECT_EQ(content_of(path("a")), "3");
  write(path("empty"), {});
  EXPECT_EQ(content_of(path("empty")), "");
  EXPECT_THAT(names(), testing::UnorderedElementsAre("a", "empty"));
}

TEST_F(FileOpsTest, writes_beside_the_working_folder_too) {
  const fs::path before = fs::current_path();
  fs::current_path(folder_);
  write("plain", {"x"});
  fs::current_path(before);
  EXPECT_EQ(content_of(path("plain")), "x");
}

TEST_F(FileOpsTest, an_open_reader_keeps_the_old_content) {
  const auto file = file_ops().open(make("a", "old"));
  write(path("a"), {"new"});
  std::string out(3, ' ');
  file->read_at(0, std::as_writable_bytes(std::span(out)));
  EXPECT_EQ(out, "old");
}

TEST_F(FileOpsTest, D14_a_failed_write_leaves_the_old_file_and_no_other) {
  make("a", "old");
  // A limit on the size of files makes the kernel refuse the write half way, as a full disk does.
  struct rlimit before {};
  ASSERT_EQ(::getrlimit(RLIMIT_FSIZE, &before), 0);
  const auto handler = ::signal(SIGXFSZ, SIG_IGN);
  struct rlimit low = before;
  low.rlim_cur = 1000;
  ASSERT_EQ(::setrlimit(RLIMIT_FSIZE, &low), 0);
  std::string message;
  try {
    write(path("a"), {std::string(500, 'x'), std::string(1000, 'y')});
  } catch (const IoError& error) {
    message = error.what();
  }
  ::setrlimit(RLIMIT_FSIZE, &before);
  ::signal(SIGXFSZ, handler);
  EXPECT_EQ(message, path("a") + ": cannot write: File too large");
  EXPECT_EQ(content_of(path("a")), "old");
  EXPECT_THAT(names(), testing::ElementsAre("a"));
}

/// A child that dies while it writes the second of two parts.
void kill_a_writer(const std::string& path) {
  const pid_t child = ::fork();
  ASSERT_GE(child, 0);
  if (child == 0) {
    const std::string text = "half of it";
    file_ops().write_parts(path, 2, [&](std::size_t i) {
      if (i == 1) ::raise(SIGKILL);
      return std::as_bytes(std::span(text));
    });
    ::_exit(0);
  }
  int status = 0;
  ASSERT_EQ(::waitpid(child, &status, 0), child);
  ASSERT_TRUE(WIFSIGNALED(status));
}

TEST_F(FileOpsTest, D6_the_next_writer_removes_what_killed_ones_left) {
  write(path("f"), {"old"});
  kill_a_writer(path("f"));
  kill_a_writer(path("g"));
  ASSERT_THAT(names(), testing::SizeIs(3));
  kill_a_writer(path("f"));
  EXPECT_THAT(names(), testing::SizeIs(3)) << "each begins where the one before it ended";
  // What only looks like one stays.
  for (const char* name : {"f.tmp-", "f.tmp-1", "f.tmp-1-", "f.tmp--1", "f.tmp-1-2x", "ff.tmp-1-2",
                           "f.tmp-a-2", "f.tmp-1-2.txt"})
    make(name, "mine");
  fs::create_directory(path("f.tmp-7-1"));
  fs::create_symlink(path("f"), path("f.tmp-7-2"));
  ASSERT_EQ(::mkfifo(path("f.tmp-7-3").c_str(), 0600), 0);
  make("f.tmp-1-2", "left by another");
  EXPECT_EQ(content_of(path("f")), "old");
  write(path("f"), {"new"});
  EXPECT_EQ(content_of(path("f")), "new");
  EXPECT_THAT(names(), testing::SizeIs(2 + 8 + 3));
  EXPECT_FALSE(fs::exists(path("f.tmp-1-2")));
  EXPECT_EQ(file_ops().remove_leftovers(path("g")), 1u);
  EXPECT_EQ(file_ops().remove_leftovers(path("g")), 0u);
  EXPECT_EQ(file_ops().remove_leftovers(path("none/g")), 0u);
}

TEST_F(FileOpsTest, D8_what_a_living_writer_writes_is_nobodys_leftover) {
  const std::string first = "first", second = "second";
  file_ops().write_parts(path("f"), 2, [&](std::size_t i) {
    if (i == 0) return std::as_bytes(std::span(first));
    EXPECT_EQ(file_ops().remove_leftovers(path("f")), 0u);
    write(path("f"), {"of another, which was faster"});
    EXPECT_THAT(names(), testing::SizeIs(2));
    return std::as_bytes(std::span(second));
  });
  EXPECT_EQ(content_of(path("f")), "firstsecond");
  EXPECT_THAT(names(), testing::ElementsAre("f"));
}

TEST(TargetOfTemporary, is_told_for_their_names_alone) {
  EXPECT_EQ(target_of_temporary("f.tmp-1-2"), "f");
  EXPECT_EQ(target_of_temporary("/a/f.tmp-3-4.tmp-123-45"), "/a/f.tmp-3-4");
  for (const char* name : {"f", "f.tmp-", "f.tmp-1", "f.tmp-1-", "f.tmp--1", "f.tmp-1-2x",
                           "f.tmp-1-2/g", "f.tmp-1--2", ""})
    EXPECT_EQ(target_of_temporary(name), "") << name;
}

TEST_F(FileOpsTest, writing_where_no_file_can_be_is_an_error_and_leaves_nothing) {
  EXPECT_THROW(write(path("no/such/folder"), {"x"}), IoError);
  fs::create_directory(path("dir"));
  EXPECT_THROW(write(path("dir"), {"x"}), IoError);
  ASSERT_EQ(::mkfifo(path("pipe").c_str(), 0600), 0);
  EXPECT_THROW(write(path("pipe"), {"x"}), IoError);
  EXPECT_TRUE(fs::is_fifo(path("pipe")));
  EXPECT_THAT(names(), testing::UnorderedElementsAre("dir", "pipe"));
}

TEST_F(FileOpsTest, read_text_is_whole_and_bounded) {
  const std::string text("a\0b\n\xFF", 5);
  EXPECT_EQ(read_text(make("a", text), 5), text);
  EXPECT_EQ(read_text(make("empty", ""), 0), "");
  try {
    read_text(path("a"), 4);
    FAIL() << "read more than the limit";
  } catch (const FormatError& error) {
    EXPECT_EQ(error.what(), path("a") + ": the file has 5 bytes, the limit is 4");
  }
  EXPECT_THROW(read_text(path("absent"), 5), IoError);
}

TEST_F(FileOpsTest, a_test_can_fail_the_nth_operation) {
  make("a", "text");
  int fail_at = 1;
  for (;; ++fail_at) {
    test::FaultFileOps faults(fail_at);
    try {
      EXPECT_EQ(read_text(path("a"), 10), "text");
      break;
    } catch (const IoError& error) {
      EXPECT_THAT(error.what(), HasSubstr("Input/output error"));
      EXPECT_TRUE(faults.failed());
    }
  }
  EXPECT_EQ(fail_at, 3);  // open, read
  {
    test::FaultFileOps faults(1);
    EXPECT_THROW(write(path("b"), {"x"}), IoError);
    EXPECT_FALSE(file_ops().exists(path("b")));
  }
  EXPECT_EQ(read_text(path("a"), 10), "text");
}

TEST_F(FileOpsTest, D13_lists_regular_files_by_name_and_no_others) {
  make("b", "12");
  make("a", "1");
  fs::create_directory(path("folder"));
  fs::create_symlink("a", path("link"));
  fs::permissions(path("b"), fs::perms::owner_read);
  const std::vector<FolderEntry> entries = file_ops().list(folder_.string());
  ASSERT_EQ(entries.size(), 2u);
  EXPECT_EQ(entries[0].name, "a");
  EXPECT_EQ(entries[0].bytes, 1u);
  EXPECT_TRUE(entries[0].is_writable);
  EXPECT_EQ(entries[1].name, "b");
  EXPECT_FALSE(entries[1].is_writable);
  EXPECT_TRUE(file_ops().list(path("absent")).empty());
  EXPECT_THROW(file_ops().list(path("a")), IoError);
}

TEST_F(FileOpsTest, D7_makes_folders_for_their_owner_alone) {
  file_ops().make_folder(path("x/y/z"));
  file_ops().make_folder(path("x/y/z"));
  EXPECT_TRUE(fs::is_directory(path("x/y/z")));
  EXPECT_EQ(fs::status(path("x/y")).permissions(), fs::perms::owner_all);
  EXPECT_THROW(file_ops().make_folder(make("file", "") + "/below"), IoError);
}

TEST_F(FileOpsTest, removes_files) {
  make("a", "1");
  file_ops().remove(path("a"));
  EXPECT_FALSE(file_ops().exists(path("a")));
  EXPECT_THROW(file_ops().remove(path("a")), IoError);
}

TEST_F(FileOpsTest, install_returns_the_one_before) {
  FileOps& system = file_ops();
  {
    test::FaultFileOps faults(0);
    EXPECT_EQ(&file_ops(), &faults);
    EXPECT_TRUE(file_ops().exists(folder_.string()));
    EXPECT_EQ(faults.operations(), 1);
  }
  EXPECT_EQ(&file_ops(), &system);
}

}  // namespace
}  // namespace quire

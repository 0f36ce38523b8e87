#include "quire/base/file_ops.h"

#include <dirent.h>
#include <fcntl.h>
#include <sys/file.h>
#include <sys/stat.h>
#include <unistd.h>

#include <algorithm>
#include <atomic>
#include <cerrno>
#include <cstdio>
#include <limits>
#include <string_view>
#include <utility>

#include "quire/base/error.h"

namespace quire {
namespace {

// Linux moves at most 0x7ffff000 bytes per call; a smaller piece keeps Ctrl-C responsive on slow
// disks.
constexpr std::size_t kPieceBytes = std::size_t{1} << 28;

/// Owns a file descriptor.
class Descriptor {
 public:
  explicit Descriptor(int fd) : fd_(fd) {}
  ~Descriptor() {
    if (fd_ >= 0) ::close(fd_);
  }
  Descriptor(const Descriptor&) = delete;
  Descriptor& operator=(const Descriptor&) = delete;
  int get() const { return fd_; }
  int release() { return std::exchange(fd_, -1); }

 private:
  int fd_;
};

const char* kind_of(mode_t mode) {
  if (S_ISDIR(mode)) return "is a directory, not a file";
  if (S_ISFIFO(mode)) return "is a named pipe, not a regular file";
  if (S_ISSOCK(mode)) return "is a socket, not a regular file";
  if (S_ISCHR(mode) || S_ISBLK(mode)) return "is a device, not a regular file";
  return "is not a regular file";
}

int open_retrying(const char* path, int flags, mode_t mode = 0) {
  int fd;
  do {
    fd = ::open(path, flags | O_CLOEXEC, mode);
  } while (fd < 0 && errno == EINTR);
  return fd;
}

class PosixFile final : public File {
 public:
  PosixFile(std::string path, int fd, std::uint64_t size)
      : path_(std::move(path)), fd_(fd), size_(size) {}

  std::uint64_t size() const override { return size_; }
  const std::string& path() const override { return path_; }

  void read_at(std::uint64_t offset, std::span<std::byte> out) const override {
    std::uint64_t at = offset;
    for (std::span<std::byte> rest = out; !rest.empty();) {
      if (at > static_cast<std::uint64_t>(std::numeric_limits<off_t>::max())) ends_early(at);
      const std::size_t wanted = std::min(rest.size(), kPieceBytes);
      const ssize_t got = ::pread(fd_.get(), rest.data(), wanted, static_cast<off_t>(at));
      if (got < 0 && errno == EINTR) continue;
      if (got < 0) throw IoError(path_, "cannot read", errno);
      if (got == 0) ends_early(at);
      at += static_cast<std::uint64_t>(got);
      rest = rest.subspan(static_cast<std::size_t>(got));
    }
  }

 private:
  [[noreturn]] void ends_early(std::uint64_t at) const {
    throw FormatError(path_, at, "the file ends early");
  }

  std::string path_;
  Descriptor fd_;
  std::uint64_t size_;
};

constexpr std::string_view kTemporary = ".tmp-";  // behind it the process, a hyphen, a number

/// The temporary file of one write: removed again unless it was renamed. It is locked as long as
/// its writer lives.
class Temporary {
 public:
  explicit Temporary(const std::string& target) {
    static std::atomic<unsigned> counter{0};
    // Another process may hold the same name (a leftover of a crash with our number): try the next.
    for (int attempt = 0; attempt < 100; ++attempt) {
      path_ = concat(target, kTemporary, static_cast<int>(::getpid()), "-", counter.fetch_add(1));
      fd_ = open_retrying(path_.c_str(), O_WRONLY | O_CREAT | O_EXCL | O_NOFOLLOW, 0666);
      if (fd_ >= 0 && is_kept()) return;
      if (fd_ < 0 && errno != EEXIST) break;
      if (fd_ >= 0) ::close(std::exchange(fd_, -1));
    }
    throw IoError(target, "cannot create a file beside it", errno);
  }
  ~Temporary() {
    if (!path_.empty()) ::unlink(path_.c_str());
    if (fd_ >= 0) ::close(fd_);
  }
  Temporary(const Temporary&) = delete;
  Temporary& operator=(const Temporary&) = delete;

  void write(const std::string& target, std::span<const std::byte> bytes) {
    while (!bytes.empty()) {
      const ssize_t put = ::write(fd_, bytes.data(), std::min(bytes.size(), kPieceBytes));
      if (put < 0 && errno == EINTR) continue;
      if (put < 0) throw IoError(target, "cannot write", errno);
      bytes = bytes.subspan(static_cast<std::size_t>(put));
    }
  }

  void publish(const std::string& target) {
    if (::fsync(fd_) != 0) throw IoError(target, "cannot sync", errno);
    // (Still locked, and open: after the sync closing has nothing to tell.)
    if (std::rename(path_.c_str(), target.c_str()) != 0) {
      throw IoError(target, "cannot rename the finished file into place", errno);
    }
    path_.clear();
  }

 private:
  /// Locks the file. False when somebody who removes leftovers was faster. (Where a file system has
  /// no locks, nobody else gets one either, and nothing is removed.)
  bool is_kept() const {
    if (::flock(fd_, LOCK_EX | LOCK_NB) != 0) return errno != EWOULDBLOCK;
    struct stat status {};
    return ::fstat(fd_, &status) == 0 && status.st_nlink > 0;
  }

  std::string path_;
  int fd_ = -1;
};

std::string folder_of(const std::string& path) {
  const std::size_t slash = path.rfind('/');
  return slash == std::string::npos ? "." : slash == 0 ? "/" : path.substr(0, slash);
}

void sync_directory_of(const std::string& path) {
  const std::string folder = folder_of(path);
  const Descriptor fd(open_retrying(folder.c_str(), O_RDONLY | O_DIRECTORY));
  // Some file systems cannot sync a directory; there the rename itself is all the promise one gets.
  if (fd.get() < 0 || (::fsync(fd.get()) != 0 && errno != EINVAL && errno != ENOTSUP)) {
    throw IoError(folder, "cannot sync the directory", errno);
  }
}

struct CloseFolder {
  void operator()(DIR* folder) const { ::closedir(folder); }
};

/// Removes a temporary file that nobody holds locked: its writer is dead.
bool remove_if_left(const std::string& path) {
  struct stat before {};
  if (::lstat(path.c_str(), &before) != 0 || !S_ISREG(before.st_mode)) return false;
  const Descriptor fd(open_retrying(path.c_str(), O_RDWR | O_NOFOLLOW | O_NONBLOCK | O_NOCTTY));
  if (fd.get() < 0 || ::flock(fd.get(), LOCK_EX | LOCK_NB) != 0) return false;
  // With the lock it stays what it is: not renamed into place meanwhile, and not another's.
  struct stat held {
  }, named{};
  if (::fstat(fd.get(), &held) != 0 || ::lstat(path.c_str(), &named) != 0) return false;
  return held.st_dev == named.st_dev && held.st_ino == named.st_ino && ::unlink(path.c_str()) == 0;
}

class PosixFileOps final : public FileOps {
 public:
  std::unique_ptr<File> open(const std::string& path) override {
    // O_NONBLOCK: opening a named pipe must not wait for its writer. It means nothing for regular
    // files.
    Descriptor fd(open_retrying(path.c_str(), O_RDONLY | O_NONBLOCK | O_NOCTTY));
    if (fd.get() < 0) throw IoError(path, "cannot open", errno);
    struct stat status {};
    if (::fstat(fd.get(), &status) != 0) throw IoError(path, "cannot examine", errno);
    if (!S_ISREG(status.st_mode)) throw IoError(path, kind_of(status.st_mode), 0);
    const auto size = static_cast<std::uint64_t>(status.st_size);
    return std::make_unique<PosixFile>(path, fd.release(), size);
  }

  void write_whole(const std::string& path,
                   std::span<const std::span<const std::byte>> parts) override {
    write_parts(path, parts.size(), [&](std::size_t i) { return parts[i]; });
  }

  void write_parts(const std::string& path, std::size_t count,
                   const std::function<std::span<const std::byte>(std::size_t)>& part) override {
    // The rename would replace a device or pipe by a plain file, which nobody means.
    struct stat status {};
    if (::stat(path.c_str(), &status) == 0 && !S_ISREG(status.st_mode)) {
      throw IoError(path, kind_of(status.st_mode), 0);
    }
    remove_leftovers(path);
    Temporary temporary(path);
    for (std::size_t i = 0; i < count; ++i) temporary.write(path, part(i));
    temporary.publish(path);
    sync_directory_of(path);
  }

  std::size_t remove_leftovers(const std::string& path) override {
    const std::string folder = folder_of(path);
    const std::unique_ptr<DIR, CloseFolder> open(::opendir(folder.c_str()));
    if (open == nullptr) return 0;
    const std::string name = path.substr(path.rfind('/') + 1);
    std::size_t removed = 0;
    while (const dirent* entry = ::readdir(open.get())) {
      if (target_of_temporary(entry->d_name) == name && !name.empty())
        removed += remove_if_left(concat(folder, "/", entry->d_name)) ? 1u : 0u;
    }
    return removed;
  }

  bool exists(const std::string& path) override {
    struct stat status {};
    if (::stat(path.c_str(), &status) == 0) return true;
    if (errno == ENOENT || errno == ENOTDIR) return false;
    throw IoError(path, "cannot examine", errno);
  }

  std::vector<FolderEntry> list(const std::string& folder) override {
    const std::unique_ptr<DIR, CloseFolder> open(::opendir(folder.c_str()));
    if (open == nullptr && errno == ENOENT) return {};
    if (open == nullptr) throw IoError(folder, "cannot list", errno);
    std::vector<FolderEntry> out;
    for (;;) {
      errno = 0;
      const dirent* entry = ::readdir(open.get());
      if (entry == nullptr && errno != 0) throw IoError(folder, "cannot list", errno);
      if (entry == nullptr) break;
      struct stat status {};
      if (::fstatat(::dirfd(open.get()), entry->d_name, &status, AT_SYMLINK_NOFOLLOW) != 0)
        continue;
      if (!S_ISREG(status.st_mode)) continue;
      out.push_back({entry->d_name, static_cast<std::uint64_t>(status.st_size),
                     (status.st_mode & S_IWUSR) != 0});
    }
    std::sort(out.begin(), out.end(),
              [](const FolderEntry& a, const FolderEntry& b) { return a.name < b.name; });
    return out;
  }

  void make_folder(const std::string& folder) override {
    for (std::size_t end = folder.find('/', 1);; end = folder.find('/', end + 1)) {
      const std::string part = folder.substr(0, end);
      if (::mkdir(part.c_str(), 0700) != 0 && errno != EEXIST)
        throw IoError(part, "cannot make the folder", errno);
      if (end == std::string::npos) return;
    }
  }

  void remove(const std::string& path) override {
    if (::unlink(path.c_str()) != 0) throw IoError(path, "cannot remove", errno);
  }

  std::unique_ptr<ScratchFile> open_scratch(const std::string& folder) override {
    return open_system_scratch(folder);
  }
};

FileOps& posix_file_ops() {
  static PosixFileOps ops;
  return ops;
}

std::atomic<FileOps*> installed{nullptr};

}  // namespace

FileOps& file_ops() {
  FileOps* ops = installed.load(std::memory_order_acquire);
  return ops != nullptr ? *ops : posix_file_ops();
}

FileOps* install_file_ops(FileOps* ops) {
  return installed.exchange(ops, std::memory_order_acq_rel);
}

std::string target_of_temporary(const std::string& path) {
  constexpr std::string_view kDigits = "0123456789";
  const std::size_t mark = path.rfind(kTemporary);
  if (mark == std::string::npos || path.find('/', mark) != std::string::npos) return {};
  const std::string_view rest = std::string_view(path).substr(mark + kTemporary.size());
  const std::size_t hyphen = rest.find_first_not_of(kDigits);
  const bool is_one = hyphen != std::string_view::npos && hyphen > 0 && rest[hyphen] == '-' &&
                      hyphen + 1 < rest.size() &&
                      rest.find_first_not_of(kDigits, hyphen + 1) == std::string_view::npos;
  return is_one ? path.substr(0, mark) : std::string();
}

std::string read_text(const std::string& path, std::uint64_t limit) {
  const std::unique_ptr<File> file = file_ops().open(path);
  if (file->size() > limit) {
    throw FormatError(path, concat("the file has ", file->size(), " bytes, the limit is ", limit));
  }
  std::string text(static_cast<std::size_t>(file->size()), '\0');
  file->read_at(0, std::as_writable_bytes(std::span(text)));
  return text;
}

}  // namespace quire

#include "quire/base/scratch_file.h"

#include <fcntl.h>
#include <liburing.h>
#include <sys/uio.h>
#include <unistd.h>

#include <algorithm>
#include <atomic>
#include <cerrno>
#include <cstdlib>
#include <string_view>
#include <vector>

#include "quire/base/error.h"

namespace quire {
namespace {

constexpr unsigned kDepth = 32;  // transfers under way at once

enum class Way { kRead, kWrite };

/// What is left of a transfer, as the system calls take it.
struct Pieces {
  std::array<iovec, 4> at{};
  unsigned count = 0;
  std::uint64_t offset = 0;

  explicit Pieces(const Transfer& transfer, std::uint64_t done = 0)
      : offset(transfer.offset + done) {
    for (std::span<std::byte> part : transfer.parts) {
      const std::uint64_t skip = std::min<std::uint64_t>(done, part.size());
      done -= skip;
      part = part.subspan(skip);
      if (part.empty()) continue;
      at[count++] = {part.data(), part.size()};
    }
  }
};

class SystemScratch final : public ScratchFile {
 public:
  SystemScratch(std::string folder, int fd) : folder_(std::move(folder)), fd_(fd) {
    const char* io = std::getenv("QUIRE_IO");
    if (io != nullptr && std::string_view(io) == "pread") return;
    has_ring_ = ::io_uring_queue_init(kDepth, &ring_, 0) == 0;
  }
  ~SystemScratch() override {
    if (has_ring_) ::io_uring_queue_exit(&ring_);
    ::close(fd_);
  }
  SystemScratch(const SystemScratch&) = delete;
  SystemScratch& operator=(const SystemScratch&) = delete;

  void expect(std::uint64_t offset, std::uint64_t bytes) override {
    ::posix_fadvise(fd_, static_cast<off_t>(offset), static_cast<off_t>(bytes),
                    POSIX_FADV_WILLNEED);
  }
  void read(std::span<Transfer> transfers) override { move(transfers, Way::kRead); }
  void write(std::span<Transfer> transfers) override { move(transfers, Way::kWrite); }
  const std::string& folder() const override { return folder_; }
  const char* method() const override { return has_ring_ ? "io_uring" : "pread"; }

 private:
  void move(std::span<Transfer> transfers, Way way) {
    for (std::size_t begin = 0; begin < transfers.size(); begin += kDepth) {
      const auto some =
          transfers.subspan(begin, std::min<std::size_t>(kDepth, transfers.size() - begin));
      std::vector<std::uint64_t> done(some.size(), 0);
      if (has_ring_) move_at_once(some, way, done);
      for (std::size_t i = 0; i < some.size(); ++i) finish(some[i], way, done[i]);
    }
  }

  /// Up to kDepth transfers through the ring. What it did not move, for whatever reason, finish()
  /// moves or learns the error of.
  void move_at_once(std::span<Transfer> some, Way way, std::vector<std::uint64_t>& done) {
    std::vector<Pieces> pieces;
    pieces.reserve(some.size());
    for (std::size_t i = 0; i < some.size(); ++i) {
      const Pieces& p = pieces.emplace_back(some[i]);
      io_uring_sqe* entry = ::io_uring_get_sqe(&ring_);
      if (way == Way::kRead)
        ::io_uring_prep_readv(entry, fd_, p.at.data(), p.count, p.offset);
      else
        ::io_uring_prep_writev(entry, fd_, p.at.data(), p.count, p.offset);
      ::io_uring_sqe_set_data64(entry, i);
    }
    int waiting = 0;
    for (auto left = static_cast<int>(some.size()); left > 0;) {
      const int taken = ::io_uring_submit(&ring_);
      if (taken == -EINTR) continue;
      if (taken <= 0) break;
      left -= taken;
      waiting += taken;
    }
    const bool is_broken = waiting < static_cast<int>(some.size());
    while (waiting > 0) {
      io_uring_cqe* result = nullptr;
      const int error = ::io_uring_wait_cqe(&ring_, &result);
      if (error == -EINTR || error == -EAGAIN) continue;
      if (error != 0) break;
      if (result->res > 0) done[result->user_data] = static_cast<std::uint64_t>(result->res);
      ::io_uring_cqe_seen(&ring_, result);
      --waiting;
    }
    if (!is_broken && waiting == 0) return;
    // The kernel takes no more through it: from here on without.
    ::io_uring_queue_exit(&ring_);
    has_ring_ = false;
    std::fill(done.begin(), done.end(), 0);
  }

  void finish(Transfer& transfer, Way way, std::uint64_t done) const {
    transfer.error = 0;
    for (;;) {
      const Pieces left(transfer, done);
      if (left.count == 0) return;
      const auto count = static_cast<int>(left.count);
      const auto at = static_cast<off_t>(left.offset);
      const ssize_t moved = way == Way::kRead ? ::preadv(fd_, left.at.data(), count, at)
                                              : ::pwritev(fd_, left.at.data(), count, at);
      if (moved < 0 && errno == EINTR) continue;
      if (moved <= 0) {
        transfer.error = moved < 0 ? errno : EIO;
        return;
      }
      done += static_cast<std::uint64_t>(moved);
    }
  }

  std::string folder_;
  int fd_;
  io_uring ring_{};
  std::atomic<bool> has_ring_{false};  // method() may be asked by another thread
};

int open_nameless(const std::string& folder) {
  int fd;
  do {
    fd = ::open(folder.c_str(), O_TMPFILE | O_EXCL | O_RDWR | O_CLOEXEC, 0600);
  } while (fd < 0 && errno == EINTR);
  if (fd >= 0 || (errno != EOPNOTSUPP && errno != EISDIR && errno != EINVAL)) return fd;
  // A file system that knows only files with names: one that nobody else has, and it is taken away.
  static std::atomic<unsigned> counter{0};
  for (int attempt = 0; attempt < 100; ++attempt) {
    const std::string path =
        concat(folder, "/scratch-", static_cast<int>(::getpid()), "-", counter.fetch_add(1));
    fd = ::open(path.c_str(), O_CREAT | O_EXCL | O_NOFOLLOW | O_RDWR | O_CLOEXEC, 0600);
    if (fd >= 0) {
      ::unlink(path.c_str());
      return fd;
    }
    if (errno != EEXIST && errno != EINTR) break;
  }
  return fd;
}

}  // namespace

std::unique_ptr<ScratchFile> open_system_scratch(const std::string& folder) {
  const int fd = open_nameless(folder);
  if (fd < 0) throw IoError(folder, "cannot make a scratch file in it", errno);
  return std::make_unique<SystemScratch>(folder, fd);
}

}  // namespace quire

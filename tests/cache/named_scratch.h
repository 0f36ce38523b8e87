#pragma once

// A scratch file that has a name, so that it can be found after a kill.

#include <fcntl.h>
#include <unistd.h>

#include <algorithm>
#include <cerrno>
#include <string>
#include <utility>

#include "quire/base/error.h"
#include "quire/base/scratch_file.h"

namespace quire::cache::test {

class NamedScratch final : public ScratchFile {
 public:
  /// What is in the file already stays.
  explicit NamedScratch(std::string path) : path_(std::move(path)) { open(); }
  ~NamedScratch() override { ::close(fd_); }
  NamedScratch(const NamedScratch&) = delete;
  NamedScratch& operator=(const NamedScratch&) = delete;

  void read(std::span<Transfer> transfers) override {
    for (Transfer& t : transfers) {
      std::uint64_t at = t.offset;
      t.error = 0;
      for (const auto part : t.parts) {
        if (t.error != 0 || part.empty()) continue;
        const ssize_t got = ::pread(fd_, part.data(), part.size(), static_cast<off_t>(at));
        if (got != static_cast<ssize_t>(part.size())) t.error = EIO;
        at += part.size();
      }
    }
  }
  void write(std::span<Transfer> transfers) override {
    for (Transfer& t : transfers) {
      std::uint64_t at = t.offset;
      t.error = 0;
      for (const auto part : t.parts) {
        // Piece by piece, so that a kill finds it half done.
        for (std::size_t done = 0; t.error == 0 && done < part.size();) {
          const auto piece = part.subspan(done, std::min<std::size_t>(700, part.size() - done));
          const ssize_t put = ::pwrite(fd_, piece.data(), piece.size(), static_cast<off_t>(at));
          if (put != static_cast<ssize_t>(piece.size())) t.error = EIO;
          at += piece.size();
          done += piece.size();
        }
      }
    }
  }
  const std::string& folder() const override { return path_; }
  const char* method() const override { return "named"; }

 private:
  void open() {
    fd_ = ::open(path_.c_str(), O_RDWR | O_CREAT | O_CLOEXEC, 0600);
    if (fd_ < 0) throw IoError(path_, "cannot open", errno);
  }
  std::string path_;
  int fd_ = -1;
};

}  // namespace quire::cache::test

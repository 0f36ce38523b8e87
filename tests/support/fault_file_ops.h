#pragma once

#include <atomic>
#include <cerrno>
#include <cstdint>
#include <memory>
#include <string>
#include <utility>

#include "quire/base/error.h"
#include "quire/base/file_ops.h"

namespace quire::test {

/// Passes everything on to the file operations before it, and fails the `fail_at`-th operation
/// (from 1; 0: none) with EIO: each open, read, write_whole,
/// exists, … counts as one, and each transfer of a scratch file. Installed
/// while it lives.
class FaultFileOps final : public FileOps {
 public:
  enum class Lasts { kOnce, kForEver };

  /// With kForEver every operation from then on fails too. `error`: what the system says.
  explicit FaultFileOps(std::int64_t fail_at, Lasts lasts = Lasts::kOnce, int error = EIO)
      : real_(file_ops()),
        fail_at_(fail_at),
        lasts_(lasts),
        error_(error),
        before_(install_file_ops(this)) {}
  ~FaultFileOps() override { install_file_ops(before_); }
  FaultFileOps(const FaultFileOps&) = delete;
  FaultFileOps& operator=(const FaultFileOps&) = delete;

  std::int64_t operations() const { return done_; }
  bool failed() const { return fail_at_ > 0 && done_ >= fail_at_; }

  std::unique_ptr<File> open(const std::string& path) override {
    step(path, "cannot open");
    return std::make_unique<FaultFile>(*this, real_.open(path));
  }
  void write_whole(const std::string& path,
                   std::span<const std::span<const std::byte>> parts) override {
    step(path, "cannot write");
    real_.write_whole(path, parts);
  }
  void write_parts(const std::string& path, std::size_t count,
                   const std::function<std::span<const std::byte>(std::size_t)>& part) override {
    step(path, "cannot write");
    real_.write_parts(path, count, part);
  }
  std::size_t remove_leftovers(const std::string& path) override {
    return real_.remove_leftovers(path);
  }
  bool exists(const std::string& path) override {
    step(path, "cannot examine");
    return real_.exists(path);
  }
  std::vector<FolderEntry> list(const std::string& folder) override {
    step(folder, "cannot list");
    return real_.list(folder);
  }
  void make_folder(const std::string& folder) override {
    step(folder, "cannot make the folder");
    real_.make_folder(folder);
  }
  void remove(const std::string& path) override {
    step(path, "cannot remove");
    real_.remove(path);
  }
  std::unique_ptr<ScratchFile> open_scratch(const std::string& folder) override {
    step(folder, "cannot make a scratch file in it");
    return std::make_unique<FaultScratch>(*this, real_.open_scratch(folder));
  }

 private:
  class FaultFile final : public File {
   public:
    FaultFile(FaultFileOps& ops, std::unique_ptr<File> real) : ops_(ops), real_(std::move(real)) {}
    std::uint64_t size() const override { return real_->size(); }
    const std::string& path() const override { return real_->path(); }
    void read_at(std::uint64_t offset, std::span<std::byte> out) const override {
      ops_.step(path(), "cannot read");
      real_->read_at(offset, out);
    }

   private:
    FaultFileOps& ops_;
    std::unique_ptr<File> real_;
  };

  /// Each transfer of a scratch file is an operation.
  class FaultScratch final : public ScratchFile {
   public:
    FaultScratch(FaultFileOps& ops, std::unique_ptr<ScratchFile> real)
        : ops_(ops), real_(std::move(real)) {}
    void read(std::span<Transfer> transfers) override {
      real_->read(transfers);
      for (Transfer& t : transfers) fail(t);
    }
    void write(std::span<Transfer> transfers) override {
      for (Transfer& t : transfers) {
        if (!fail(t)) real_->write({&t, 1});
      }
    }
    const std::string& folder() const override { return real_->folder(); }
    const char* method() const override { return real_->method(); }

   private:
    bool fail(Transfer& t) {
      const bool fails = ops_.counts_to_failure();
      if (fails) t.error = ops_.error_;
      return fails;
    }
    FaultFileOps& ops_;
    std::unique_ptr<ScratchFile> real_;
  };

  bool counts_to_failure() {
    const std::int64_t now = ++done_;
    return now == fail_at_ || (lasts_ == Lasts::kForEver && fail_at_ > 0 && now > fail_at_);
  }
  void step(const std::string& path, const char* action) {
    if (counts_to_failure()) throw IoError(path, action, error_);
  }

  FileOps& real_;
  std::int64_t fail_at_;
  Lasts lasts_;
  int error_;
  std::atomic<std::int64_t> done_{0};
  FileOps* before_;
};

}  // namespace quire::test

#pragma once

#include <algorithm>
#include <cerrno>
#include <cstring>
#include <functional>
#include <memory>
#include <string>
#include <utility>
#include <vector>

#include "quire/base/file_ops.h"

namespace quire::test {

/// A scratch file in memory.
class MemoryScratch : public ScratchFile {
 public:
  void read(std::span<Transfer> transfers) override {
    for (Transfer& t : transfers) {
      std::size_t at = t.offset, end = at;
      for (const auto part : t.parts) end += part.size();
      t.error = end > bytes_.size() ? EIO : 0;
      for (const auto part : t.parts) {
        if (t.error != 0 || part.empty()) continue;
        std::memcpy(part.data(), bytes_.data() + at, part.size());
        at += part.size();
      }
    }
  }
  void write(std::span<Transfer> transfers) override {
    for (Transfer& t : transfers) {
      std::size_t at = t.offset;
      t.error = 0;
      for (const auto part : t.parts) {
        if (part.empty()) continue;
        bytes_.resize(std::max(bytes_.size(), at + part.size()));
        std::memcpy(bytes_.data() + at, part.data(), part.size());
        at += part.size();
      }
    }
  }
  const std::string& folder() const override { return folder_; }
  const char* method() const override { return "memory"; }

  std::string content() const {
    return {reinterpret_cast<const char*>(bytes_.data()), bytes_.size()};
  }
  void set_content(const std::string& bytes) {
    bytes_.resize(bytes.size());
    std::memcpy(bytes_.data(), bytes.data(), bytes.size());
  }
  /// Changes a bit, if there is such a byte.
  void flip(std::size_t at) {
    if (at < bytes_.size()) bytes_[at] ^= std::byte{4};
  }

 private:
  std::string folder_ = "memory";
  std::vector<std::byte> bytes_;
};

/// The operating system's files, but for scratch files. Installed while it lives.
class ScratchFileOps : public FileOps {
 public:
  using Make = std::function<std::unique_ptr<ScratchFile>(const std::string& folder)>;
  explicit ScratchFileOps(Make make)
      : make_(std::move(make)), real_(file_ops()), before_(install_file_ops(this)) {}
  ~ScratchFileOps() override { install_file_ops(before_); }
  ScratchFileOps(const ScratchFileOps&) = delete;
  ScratchFileOps& operator=(const ScratchFileOps&) = delete;

  std::unique_ptr<File> open(const std::string& path) override { return real_.open(path); }
  void write_whole(const std::string& path,
                   std::span<const std::span<const std::byte>> parts) override {
    real_.write_whole(path, parts);
  }
  void write_parts(const std::string& path, std::size_t count,
                   const std::function<std::span<const std::byte>(std::size_t)>& part) override {
    real_.write_parts(path, count, part);
  }
  std::size_t remove_leftovers(const std::string& path) override {
    return real_.remove_leftovers(path);
  }
  bool exists(const std::string& path) override { return real_.exists(path); }
  std::vector<FolderEntry> list(const std::string& folder) override { return real_.list(folder); }
  void make_folder(const std::string& folder) override { real_.make_folder(folder); }
  void remove(const std::string& path) override { real_.remove(path); }
  std::unique_ptr<ScratchFile> open_scratch(const std::string& folder) override {
    return make_(folder);
  }

 private:
  Make make_;
  FileOps& real_;
  FileOps* before_;
};

}  // namespace quire::test

#pragma once

#include <algorithm>
#include <cerrno>
#include <cstdint>
#include <cstring>
#include <map>
#include <memory>
#include <string>
#include <string_view>
#include <utility>

#include "quire/base/error.h"
#include "quire/base/file_ops.h"
#include "tests/support/memory_scratch.h"

namespace quire::test {

/// Files that live in memory, for parsers that read thousands of them. Installed while it lives.
class MemoryFileOps final : public FileOps {
 public:
  MemoryFileOps() : before_(install_file_ops(this)) {}
  ~MemoryFileOps() override { install_file_ops(before_); }
  MemoryFileOps(const MemoryFileOps&) = delete;
  MemoryFileOps& operator=(const MemoryFileOps&) = delete;

  /// A file with these bytes. `size` cuts it short, or lengthens it by zeros that take no memory (a
  /// sparse file). The bytes are not copied: they must live as long as the file is read.
  void put(const std::string& path, std::string_view bytes, std::uint64_t size) {
    files_[path] = std::make_shared<Content>(Content{bytes, size, {}});
  }
  void put(const std::string& path, std::string_view bytes) { put(path, bytes, bytes.size()); }

  /// Cuts a file short, also for those who have it open.
  void cut(const std::string& path, std::uint64_t size) { files_.at(path)->size = size; }

  /// Bytes that were read so far, by all files.
  std::uint64_t bytes_read() const { return *bytes_read_; }

  std::unique_ptr<File> open(const std::string& path) override {
    const auto found = files_.find(path);
    if (found == files_.end()) throw IoError(path, "cannot open", ENOENT);
    return std::make_unique<MemoryFile>(path, found->second, bytes_read_);
  }
  void write_whole(const std::string& path,
                   std::span<const std::span<const std::byte>> parts) override {
    write_parts(path, parts.size(), [&](std::size_t i) { return parts[i]; });
  }
  void write_parts(const std::string& path, std::size_t count,
                   const std::function<std::span<const std::byte>(std::size_t)>& made) override {
    const auto content = std::make_shared<Content>();
    for (std::size_t i = 0; i < count; ++i) {
      const auto part = made(i);
      content->owned.append(reinterpret_cast<const char*>(part.data()), part.size());
    }
    content->bytes = content->owned;
    content->size = content->owned.size();
    files_[path] = content;
  }
  bool exists(const std::string& path) override { return files_.count(path) != 0; }
  std::vector<FolderEntry> list(const std::string& folder) override {
    std::vector<FolderEntry> out;
    for (const auto& [path, content] : files_) {
      if (path.starts_with(folder + "/"))
        out.push_back({path.substr(folder.size() + 1), content->size, true});
    }
    return out;
  }
  void make_folder(const std::string&) override {}
  void remove(const std::string& path) override {
    if (files_.erase(path) == 0) throw IoError(path, "cannot remove", ENOENT);
  }

  std::unique_ptr<ScratchFile> open_scratch(const std::string&) override {
    return std::make_unique<MemoryScratch>();
  }

  /// The bytes of a file that was written.
  std::string content(const std::string& path) const { return std::string(files_.at(path)->bytes); }

 private:
  struct Content {
    std::string_view bytes;
    std::uint64_t size = 0;
    std::string owned;
  };

  class MemoryFile final : public File {
   public:
    MemoryFile(std::string path, std::shared_ptr<const Content> content,
               std::shared_ptr<std::uint64_t> bytes_read)
        : path_(std::move(path)),
          content_(std::move(content)),
          bytes_read_(std::move(bytes_read)) {}
    std::uint64_t size() const override { return content_->size; }
    const std::string& path() const override { return path_; }
    void read_at(std::uint64_t offset, std::span<std::byte> out) const override {
      if (offset > content_->size || out.size() > content_->size - offset) {
        throw FormatError(path_, content_->size, "the file ends early");
      }
      *bytes_read_ += out.size();
      const std::size_t begin =
          static_cast<std::size_t>(std::min<std::uint64_t>(offset, content_->bytes.size()));
      const std::size_t there = std::min(out.size(), content_->bytes.size() - begin);
      if (there > 0) std::memcpy(out.data(), content_->bytes.data() + begin, there);
      std::fill(out.begin() + static_cast<std::ptrdiff_t>(there), out.end(), std::byte{0});
    }

   private:
    std::string path_;
    std::shared_ptr<const Content> content_;
    std::shared_ptr<std::uint64_t> bytes_read_;
  };

  std::map<std::string, std::shared_ptr<Content>> files_;
  std::shared_ptr<std::uint64_t> bytes_read_ = std::make_shared<std::uint64_t>(0);
  FileOps* before_;
};

}  // namespace quire::test

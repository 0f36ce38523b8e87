#pragma once

#include <cstddef>
#include <cstdint>
#include <functional>
#include <memory>
#include <span>
#include <string>
#include <vector>

#include "quire/base/scratch_file.h"

namespace quire {

/// An open file for reading at offsets. All methods may be called from several threads.
class File {
 public:
  virtual ~File() = default;
  virtual std::uint64_t size() const = 0;  // when it was opened
  /// Fills `out` from `offset`. Throws IoError; FormatError("the file ends early") when fewer bytes
  /// are there than asked for.
  virtual void read_at(std::uint64_t offset, std::span<std::byte> out) const = 0;
  virtual const std::string& path() const = 0;
};

/// A regular file in a folder.
struct FolderEntry {
  std::string name;
  std::uint64_t bytes = 0;
  bool is_writable = false;  // its owner may write to it
};

/// The only calls that touch files: tests inject faults by installing another one.
class FileOps {
 public:
  virtual ~FileOps() = default;
  /// A regular file (after symlinks). Throws IoError: absent, a directory, a FIFO, a device,
  /// unreadable.
  virtual std::unique_ptr<File> open(const std::string& path) = 0;
  /// Writes `parts` to a temporary name beside `path`, syncs, and renames: the file appears whole
  /// or not at all.
  virtual void write_whole(const std::string& path,
                           std::span<const std::span<const std::byte>> parts) = 0;
  /// The same with parts that are made one after another: part(i) must stand until the next call.
  /// What `part` throws is thrown, and no file appears.
  virtual void write_parts(const std::string& path, std::size_t count,
                           const std::function<std::span<const std::byte>(std::size_t)>& part) = 0;
  /// Removes what killed writers of `path` left beside it, never what a living one is writing; both
  /// functions above do so first. Returns how many files that were. Does not throw IoError: what
  /// cannot be removed stays.
  virtual std::size_t remove_leftovers(const std::string& /*path*/) { return 0; }
  virtual bool exists(const std::string& path) = 0;
  /// The regular files of a folder, by name; none when there is no such folder. Throws IoError.
  virtual std::vector<FolderEntry> list(const std::string& folder) = 0;
  /// Makes a folder, and those that it stands in, for this user alone; nothing where it exists.
  /// Throws IoError.
  virtual void make_folder(const std::string& folder) = 0;
  /// Throws IoError, also when there is no such file.
  virtual void remove(const std::string& path) = 0;
  /// A file without a name, in a folder that exists. Throws IoError.
  virtual std::unique_ptr<ScratchFile> open_scratch(const std::string& folder) = 0;
};

/// What the library uses: the operating system's files, or what a test installed.
FileOps& file_ops();
/// Returns the one before. Null restores the operating system's.
FileOps* install_file_ops(FileOps* ops);

/// The path that a temporary file of write_whole() and write_parts() is to become: "a/f" of
/// "a/f.tmp-123-4"; empty for any other name.
std::string target_of_temporary(const std::string& path);

/// The whole file as bytes, refused above `limit`. "-" is not special here.
std::string read_text(const std::string& path, std::uint64_t limit);

}  // namespace quire

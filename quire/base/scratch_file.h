#pragma once

#include <array>
#include <cstddef>
#include <cstdint>
#include <memory>
#include <span>
#include <string>

namespace quire {

/// One stretch of a scratch file, and the memory that it is written from or read into.
struct Transfer {
  std::uint64_t offset = 0;
  std::array<std::span<std::byte>, 4> parts;  // one after another in the file; some may be empty
  int error = 0;  // afterwards: 0 when all of it was moved, else an errno value
};

/// A file without a name, for this process alone: when it is closed, or the process is killed,
/// nothing of it is left. Its bytes are not synced: they need not outlive the process.
class ScratchFile {
 public:
  virtual ~ScratchFile() = default;
  /// This stretch will be read soon: the system may begin.
  virtual void expect(std::uint64_t /*offset*/, std::uint64_t /*bytes*/) {}
  /// Move all of them, several at once where the system can, and return when all are done; each
  /// then tells its error. Where the file ends early, that is EIO. Not for several threads at once.
  virtual void read(std::span<Transfer> transfers) = 0;
  virtual void write(std::span<Transfer> transfers) = 0;
  /// The folder that it takes its space from.
  virtual const std::string& folder() const = 0;
  /// How bytes are moved: "io_uring", or "pread" where the system refuses that.
  virtual const char* method() const = 0;
};

/// A scratch file of the operating system, in a folder that exists; readable for its owner alone.
/// Uses io_uring unless the system refuses it, or the environment says QUIRE_IO=pread. Throws
/// IoError. Ask for it with FileOps::open_scratch.
std::unique_ptr<ScratchFile> open_system_scratch(const std::string& folder);

}  // namespace quire

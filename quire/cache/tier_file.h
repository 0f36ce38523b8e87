#pragma once

#include <array>
#include <chrono>
#include <cstddef>
#include <cstdint>
#include <memory>
#include <span>

#include "quire/base/timed_file.h"
#include "quire/cache/hash.h"

namespace quire::cache {

/// Which record it is. The version is counted up with every write of a tier, so that no record is
/// ever taken for one that stood in the same place before.
struct RecordKey {
  std::int32_t layer = 0, page = 0;
  std::uint64_t version = 0;
  friend bool operator==(const RecordKey&, const RecordKey&) = default;
};

/// One page of one layer on its way to the file or back.
struct TierRecord {
  enum class Fate { kWhole, kFailed, kWrong };

  std::int64_t place = 0;  // in the file, in records
  RecordKey key;
  Hash128 sum;  // of the parts; write() tells it, read() is told it
  std::array<std::span<std::byte>, 3> parts;
  // Afterwards: kFailed is what the system says (`error`; ETIMEDOUT when it says nothing), kWrong a
  // record that is not this one, or not as it was written.
  Fate fate = Fate::kWhole;
  int error = 0;
};

/// The records of a tier in a scratch file: each has a header with its full key, the format, its
/// length and the checksums of data and header. What is read is compared with all of it, and with
/// what the reader remembers; whatever differs is no record. The disk sees only buffers of its own:
/// when a call returns, nobody touches the parts any more. Not for several threads at once.
class TierFile {
 public:
  /// `tier` and `format` are part of every key: whose records these are, and what they hold.
  TierFile(std::unique_ptr<ScratchFile> file, const Hash128& tier, const Hash128& format,
           std::int64_t payload_bytes, std::chrono::milliseconds deadline = TimedFile::kDeadline);
  ~TierFile();

  static std::int64_t header_bytes();
  std::int64_t record_bytes() const { return header_bytes() + payload_bytes_; }

  void write(std::span<TierRecord> records);
  /// Fills the parts; those of a record that is not whole hold anything.
  void read(std::span<TierRecord> records);

  /// What is not begun yet, or comes later, fails at once. May be called from another thread.
  void stop() { file_.stop(); }
  const TimedFile& file() const { return file_; }

 private:
  struct Header;
  Header header_of(const TierRecord& record) const;

  TimedFile file_;
  Hash128 tier_, format_;
  std::int64_t payload_bytes_;
};

}  // namespace quire::cache

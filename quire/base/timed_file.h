#pragma once

#include <chrono>
#include <cstddef>
#include <cstdint>
#include <functional>
#include <memory>
#include <span>

#include "quire/base/scratch_file.h"

namespace quire {

/// Records of one size in a scratch file, moved by a thread of its own through buffers of its own,
/// so that a disk that stalls holds nobody up for longer than a deadline. What was given up goes on
/// in that thread: it, the buffers and the file go when the system is done with them, also when
/// this object has gone long before.
///
/// While one buffer is moved the other is filled or looked at. Not for several threads at once, but
/// for stop() and given_up().
class TimedFile {
 public:
  /// What a buffer holds, unless one record is larger; the deadline is one for each buffer.
  static constexpr std::int64_t kBufferBytes = std::int64_t{1} << 22;
  /// So often in a row a deadline may pass; then nobody waits any more until the disk has answered.
  static constexpr int kMostInARow = 3;
  /// For whoever knows no better: longer than disks that are only slow or asleep take.
  static constexpr std::chrono::milliseconds kDeadline{30'000};

  /// Throws ArgumentError for sizes and deadlines below 1; OutOfMemory when no thread can be had.
  TimedFile(std::unique_ptr<ScratchFile> file, std::int64_t record_bytes,
            std::chrono::milliseconds deadline);
  /// Waits until the deadline for what is under way, unless that was given up already.
  ~TimedFile();
  TimedFile(const TimedFile&) = delete;
  TimedFile& operator=(const TimedFile&) = delete;

  /// Puts the i-th record to be written into `bytes`.
  using Fill = std::function<void(std::size_t i, std::span<std::byte> bytes)>;
  /// The i-th record was moved (error = 0, and of a read these are its bytes), or an errno value
  /// says why not: ETIMEDOUT when it was given up.
  using Done = std::function<void(std::size_t i, std::span<const std::byte> bytes, int error)>;

  /// Move the records at these places, counted in records. `done` is called once for each, in
  /// order. Neither may throw. Throw std::bad_alloc before anything was moved.
  void read(std::span<const std::int64_t> places, const Done& done);
  void write(std::span<const std::int64_t> places, const Fill& fill, const Done& done);

  /// From now on nothing more is begun: it fails at once.
  void stop();
  /// How often a deadline passed.
  std::int64_t given_up() const;
  std::chrono::milliseconds deadline() const { return deadline_; }
  std::int64_t record_bytes() const { return record_bytes_; }
  const ScratchFile& file() const;

 private:
  struct State;
  enum class Way { kRead, kWrite };
  bool is_ready();
  void move(Way way, std::span<const std::int64_t> places, const Fill& fill, const Done& done);
  void prepare(std::size_t buffer, Way way, std::span<const std::int64_t> places, std::size_t first,
               const Fill& fill);

  std::int64_t record_bytes_;
  std::chrono::milliseconds deadline_;
  int in_a_row_ = 0;
  std::shared_ptr<State> state_;  // shared with the thread
};

}  // namespace quire

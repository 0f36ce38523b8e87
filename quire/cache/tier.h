#pragma once

#include <array>
#include <cstddef>
#include <cstdint>
#include <functional>
#include <memory>
#include <span>
#include <string>
#include <vector>

#include "quire/base/timed_file.h"
#include "quire/cache/hash.h"

namespace quire::cache {

/// How much memory a pool of pages may take, and where the rest goes.
struct MemoryLimit {
  std::int64_t ram_bytes = 0;   // keys, values and scales in memory; 0: all of them
  std::string folder;           // of the file that takes the rest; made where it does not exist
  std::int64_t disk_bytes = 0;  // the file may become as large as this; 0: as it needs
  /// So long the disk may take for up to 4 MB: what takes longer has failed.
  std::int64_t deadline_ms = TimedFile::kDeadline.count();
};

/// What a tier keeps, and where.
struct TierSpec {
  std::int64_t layers = 0, pages = 0;
  std::int64_t frames = 0;  // in memory; at least twice the pages
  std::string folder;       // of the file that takes the rest
  std::int64_t deadline_ms = MemoryLimit{}.deadline_ms;
  Hash128 format;  // what the bytes mean: part of every record's key
  std::int64_t payload_bytes = 0;
  /// The memory of a frame that holds a page of `layer`; together payload_bytes.
  std::function<std::array<std::span<std::byte>, 3>(std::int32_t frame, std::int64_t layer)> parts;
  /// Called when a page turned out to be lost, by the thread that asked for it.
  std::function<void(std::int32_t page)> lost;
};

/// Since the tier was made, in records (a page of a layer) and bytes.
struct TierCounts {
  std::int64_t frames = 0, in_memory = 0;  // frames, and those that hold something
  std::int64_t on_disk = 0;                // records that can be read back
  std::int64_t record_bytes = 0;           // of one in the file
  std::int64_t hits = 0, ahead = 0;        // found in memory; of these, read ahead of their use
  std::int64_t waits = 0;                  // read while somebody waited
  std::int64_t bytes_read = 0, bytes_written = 0;
  std::int64_t lost = 0, failed_writes = 0;
  std::int64_t given_up = 0;  // how often the disk did not answer in time
  const char* method = "";
};

/// Pages of which only a part is in memory, in frames that any page of any layer may take; the
/// rest lies in a file. Layers are used one after another, again and again: the frame whose layer
/// comes last again is given up first, so that a fixed share of each layer stays and the rest
/// streams. While a layer is used, the next one is read.
///
/// A page is read back as it was written or not at all: a record that fails or differs is lost,
/// and with it the page. A disk that does not answer within spec.deadline_ms has failed; when it
/// does so three times in a row it is asked no more until it has answered: what only the file holds
/// is then lost at once, and what memory holds stays. All methods may be called from several
/// threads; leases are given one at a time.
class Tier {
 public:
  /// Throws ArgumentError for too few frames; IoError when the file cannot be made.
  explicit Tier(TierSpec spec);
  ~Tier();
  Tier(const Tier&) = delete;
  Tier& operator=(const Tier&) = delete;

  /// Pages of a layer in memory, until it ends.
  class Lease {
   public:
    Lease(Lease&& other) noexcept;
    ~Lease();
    Lease(const Lease&) = delete;
    Lease& operator=(const Lease&) = delete;
    Lease& operator=(Lease&&) = delete;

    std::int32_t frame(std::int32_t page) const;
    /// The page's frame is about to be written: what the file has of it is old.
    void mark_written(std::int32_t page);
    /// Begins to read the same pages of another layer; or those of it.
    void read_ahead(std::int64_t layer);
    void read_ahead(std::int64_t layer, std::span<const std::int32_t> pages);

   private:
    friend class Tier;
    struct State;
    explicit Lease(std::unique_ptr<State> state);
    std::unique_ptr<State> state_;
  };

  /// Brings the pages into memory; one that holds nothing yet gets a frame with any content. Throws
  /// IoError when a page is lost (its number is told to spec.lost first), or when frames can be had
  /// only by writing and the file takes nothing; what was in memory stays usable.
  Lease lease(std::int64_t layer, std::span<const std::int32_t> pages);

  /// Reads all layers of the pages, without using them; false for each that is lost.
  std::vector<bool> check(std::span<const std::int32_t> pages);
  bool is_lost(std::int32_t page) const;
  /// The page's content is of no more use. Never waits for the disk.
  void forget(std::int32_t page);

  TierCounts counts() const;

 private:
  struct Impl;
  std::unique_ptr<Impl> impl_;
};

}  // namespace quire::cache

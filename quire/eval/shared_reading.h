#pragma once

#include <cstdint>
#include <memory>
#include <span>

#include "quire/cache/policy_cache.h"
#include "quire/eval/candidate.h"
#include "quire/eval/reading.h"
#include "quire/eval/recording.h"

namespace quire::eval {

/// Hands documents of a recording to candidates as caches that have read them. What a policy wants
/// to know of the reading's queries is found out once for all candidates that run one: each gets a
/// copy. Other kinds of cache are handed the recording (replay()).
class SharedReading {
 public:
  /// For caches of at most `capacity` tokens. The recording must outlive this object.
  SharedReading(const RecordingCache& recording, std::span<const Candidate> candidates,
                std::int64_t capacity);

  /// Reads the first `document` tokens of the recording, from the first that differs from what was
  /// read before. `next`: so many of them will stand in the document after this one, too, and need
  /// not be read again for it. False when `progress` stopped it. Throws ArgumentError for more
  /// tokens than were recorded, and as replay().
  bool read(std::int64_t document, std::int64_t next = 0, const Progress& progress = {});

  /// A cache that has read the document, and has been told that reading ended. Nothing when
  /// `progress` stopped it; throws as the cache does.
  std::unique_ptr<cache::KvCache> give(const Candidate& candidate,
                                       const Progress& progress = {}) const;

 private:
  bool advance(cache::PolicyCache& reader, std::int64_t end, std::int64_t document,
               const Progress& progress) const;
  std::unique_ptr<cache::PolicyCache> empty() const;
  std::unique_ptr<cache::PolicyCache> copy(const cache::PolicyCache& of) const;

  const RecordingCache& recording_;
  std::int64_t capacity_, document_ = 0;
  bool shares_ = false;  // whether any candidate runs a policy
  DType kv_ = DType::kF32;
  cache::Observe observe_;                      // what all of them want
  std::unique_ptr<cache::PolicyCache> reader_;  // of the document
  std::unique_ptr<cache::PolicyCache> begun_;   // of what the next one begins with
  std::vector<std::int32_t> begun_ids_;
};

}  // namespace quire::eval

#include "quire/eval/shared_reading.h"

#include <algorithm>
#include <optional>

#include "quire/base/error.h"
#include "quire/cache/merged.h"
#include "quire/cache/policies/policies.h"

namespace quire::eval {

using cache::MergedCache;
using cache::Observe;
using cache::PolicyCache;

namespace {

/// A cache that can take over what another has read.
struct Reader {
  DType kv;
  Observe observe;
};

std::optional<Reader> reader_of(const cache::KvCache& cache) {
  if (const auto* policy = dynamic_cast<const PolicyCache*>(&cache))
    return Reader{policy->kv(), policy->policy().observe()};
  if (const auto* merged = dynamic_cast<const MergedCache*>(&cache))
    return Reader{merged->kv(), merged->observe()};
  return std::nullopt;
}

}  // namespace

SharedReading::SharedReading(const RecordingCache& recording, std::span<const Candidate> candidates,
                             std::int64_t capacity)
    : recording_(recording), capacity_(capacity) {
  for (const Candidate& candidate : candidates) {
    const auto cache = candidate.make(capacity, capacity);
    const std::optional<Reader> reader = reader_of(*cache);
    if (!reader || (shares_ && reader->kv != kv_)) continue;
    shares_ = true;
    kv_ = reader->kv;
    const Observe& wants = reader->observe;
    observe_.reading_mass = observe_.reading_mass || wants.reading_mass;
    observe_.window = std::max(observe_.window, wants.window);
    observe_.reread = std::max(observe_.reread, wants.reread);
    if (!wants.moments || observe_.moments) continue;  // the first one says from where
    observe_.moments = true;
    observe_.moments_from = wants.moments_from;
  }
}

std::unique_ptr<PolicyCache> SharedReading::empty() const {
  std::vector<cache::LayerSpec> layers;
  for (std::int64_t layer = 0; layer < recording_.layers(); ++layer)
    layers.push_back(recording_.spec(layer));
  return std::make_unique<PolicyCache>(std::move(layers), cache::observing_policy(observe_),
                                       cache::Budget{}, capacity_ + observe_.reread, kv_);
}

std::unique_ptr<PolicyCache> SharedReading::copy(const PolicyCache& of) const {
  return of.with(cache::observing_policy(observe_), {});
}

bool SharedReading::advance(PolicyCache& reader, std::int64_t end, std::int64_t document,
                            const Progress& progress) const {
  const std::int64_t queries_from =
      std::clamp(first_query_wanted(reader, document), std::int64_t{0}, end);
  return replay(recording_, end, reader, queries_from, 256, progress);
}

bool SharedReading::read(std::int64_t document, std::int64_t next, const Progress& progress) {
  QUIRE_CHECK(next >= 0 && next <= document && document <= recording_.length(), "a document of ",
              document, " tokens, ", next, " of them again; the recording has ",
              recording_.length());
  document_ = document;
  reader_.reset();
  if (!shares_) return true;
  const auto ids = recording_.ids();
  const bool begins = begun_ && begun_ids_.size() <= static_cast<std::size_t>(document) &&
                      std::equal(begun_ids_.begin(), begun_ids_.end(), ids.begin());
  if (!begins) begun_ = empty();
  // Where only the last queries of a document are wanted, the part that is kept has none of them.
  const std::int64_t last = first_query_wanted(*begun_, document);
  const std::int64_t keep = last == 0 ? next : std::min(next, last);
  if (keep > begun_->length() && !advance(*begun_, keep, document, progress)) return false;
  const std::int64_t kept = begun_->length();
  begun_ids_.assign(ids.begin(), ids.begin() + kept);
  reader_ = copy(*begun_);
  return advance(*reader_, document, document, progress);
}

std::unique_ptr<cache::KvCache> SharedReading::give(const Candidate& candidate,
                                                    const Progress& progress) const {
  // The copy of a piece that is read a second time needs room.
  auto cache = candidate.make(document_, capacity_ + recording_.reread_tokens());
  const std::optional<Reader> one = reader_of(*cache);
  if (reader_ && one && one->kv == reader_->kv() &&
      reader_->policy().observe().covers(one->observe)) {
    if (auto* policy = dynamic_cast<PolicyCache*>(cache.get())) policy->take_over(*reader_);
    if (auto* merged = dynamic_cast<MergedCache*>(cache.get())) merged->take_over(*reader_);
    if (progress && !progress(document_)) return nullptr;
  } else if (!replay(recording_, document_, *cache, first_query_wanted(*cache, document_), 256,
                     progress)) {
    return nullptr;
  }
  cache->end_reading();
  return cache;
}

}  // namespace quire::eval

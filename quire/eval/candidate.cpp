#include "quire/eval/candidate.h"

#include <algorithm>

#include "quire/base/error.h"
#include "quire/cache/contiguous.h"
#include "quire/cache/merged.h"
#include "quire/cache/policy_cache.h"
#include "quire/cache/tiered.h"

namespace quire::eval {

std::int64_t first_query_wanted(const cache::KvCache& cache, std::int64_t document) {
  if (dynamic_cast<const cache::ContiguousCache*>(&cache) != nullptr ||
      dynamic_cast<const cache::TieredCache*>(&cache) != nullptr)
    return document;
  if (const auto* merged = dynamic_cast<const cache::MergedCache*>(&cache)) {
    const cache::Observe observe = merged->observe();
    return observe.reading_mass ? 0 : std::max<std::int64_t>(document - observe.window, 0);
  }
  const auto* policy = dynamic_cast<const cache::PolicyCache*>(&cache);
  if (policy == nullptr) return 0;
  const cache::Observe observe = policy->policy().observe();
  if (observe.moments || observe.reading_mass) return 0;
  return std::max<std::int64_t>(document - observe.window, 0);
}

std::int64_t reread_wanted(std::span<const Candidate> candidates, std::int64_t document) {
  std::int64_t piece = 0;
  for (const Candidate& candidate : candidates) {
    const std::int64_t wanted = candidate.make(document, document + 1)->reread_tokens();
    QUIRE_CHECK(piece == 0 || wanted == 0 || wanted == piece, candidate.cache, " wants pieces of ",
                wanted, " tokens read a second time, and another cache of ", piece);
    piece = std::max(piece, wanted);
  }
  return piece;
}

}  // namespace quire::eval

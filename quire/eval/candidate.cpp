#include "quire/eval/candidate.h"

#include <algorithm>

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

}  // namespace quire::eval

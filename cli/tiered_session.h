#pragma once

#include <cstdint>
#include <memory>
#include <optional>
#include <string>

#include "cli/paged_session.h"
#include "quire/base/json.h"
#include "quire/cache/policy.h"
#include "quire/cache/tiered.h"

namespace quire::cli {

/// "mass:0.9" or "read:25%": budgets that only the tiered cache has. Nothing for a text without a
/// colon; throws ArgumentError for another one.
std::optional<cache::SearchBudget> parse_search_budget(const std::string& option,
                                                       const std::string& text);
/// A budget of tokens or of a share of the documents, as the tiered cache takes it.
cache::SearchBudget search_budget(const cache::Budget& budget);

/// --budget as the policies take it, and all of a tiered cache that the options say.
cache::Budget budget_of(const CacheChoice& choice);
cache::TieredSpec tiered_spec(const CacheChoice& choice);

/// The figures of a tiered cache for --json.
Json tiered_json(const cache::TieredCache& cache, DType kv);

}  // namespace quire::cli

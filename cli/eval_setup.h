#pragma once

#include <cstdint>
#include <optional>
#include <string>
#include <vector>

#include "cli/common.h"
#include "quire/cache/policy.h"
#include "quire/cache/tiered.h"
#include "quire/eval/candidate.h"
#include "quire/model/model.h"

namespace quire::cli {

/// "5%,400" as it was typed, and what each means.
struct NamedBudget {
  std::string text;
  cache::Budget budget;
  std::optional<cache::SearchBudget> search = {};  // read:P, or a form that only tiered has
};

/// The parts of a list between commas. Throws ArgumentError naming the option for an empty part or
/// one that comes twice.
std::vector<std::string> parse_list(const std::string& option, const std::string& text);

/// Whole numbers of tokens, percentages above 0 and at most 100, read:P and mass:P. Throws
/// ArgumentError.
std::vector<NamedBudget> parse_budgets(const std::string& option, const std::string& text);

/// Throws ArgumentError with the nearest name for one that no cache has, and for what is no form of
/// storage behind an @ ("merged@i4h").
void check_cache_names(const std::string& option, const std::vector<std::string>& names);

/// Whether a budget means anything to the cache: the exact ones keep everything.
bool has_budget(const std::string& cache);

/// One cache under one budget. The model must outlive it.
eval::Candidate make_candidate(const model::Model& model, const std::string& cache,
                               const NamedBudget& budget, DType kv);

/// Every cache with every budget, in that order; those without a budget once.
std::vector<eval::Candidate> make_candidates(const model::Model& model,
                                             const std::vector<std::string>& caches,
                                             const std::vector<NamedBudget>& budgets, DType kv);

}  // namespace quire::cli

#include "cli/eval_setup.h"

#include <fmt/format.h>
#include <fmt/ranges.h>

#include <algorithm>

#include "cli/nearest.h"
#include "cli/number.h"
#include "cli/tiered_session.h"
#include "quire/base/error.h"
#include "quire/cache/merged.h"
#include "quire/cache/policies/policies.h"

namespace quire::cli {
namespace {

constexpr std::int64_t kMostTokens = std::int64_t{1} << 31;

NamedBudget parse_budget(const std::string& option, const std::string& text) {
  NamedBudget out{text, {}, parse_search_budget(option, text)};
  if (out.search) return out;
  if (text.ends_with('%')) {
    const double percent =
        parse_number(option, std::string_view(text).substr(0, text.size() - 1), {0, 100, true});
    out.budget.fraction = percent / 100;
  } else {
    out.budget.tokens = parse_integer(option, text, {1, kMostTokens}, Suffix::kSize);
  }
  return out;
}

}  // namespace

std::vector<std::string> parse_list(const std::string& option, const std::string& text) {
  std::vector<std::string> out;
  for (std::size_t begin = 0; begin <= text.size();) {
    const std::size_t end = std::min(text.find(',', begin), text.size());
    const std::string part = text.substr(begin, end - begin);
    QUIRE_CHECK(!part.empty(), option, " is '", text, "'; it must be a list such as a,b");
    QUIRE_CHECK(std::find(out.begin(), out.end(), part) == out.end(), option, " names ", part,
                " twice");
    out.push_back(part);
    begin = end + 1;
  }
  return out;
}

std::vector<NamedBudget> parse_budgets(const std::string& option, const std::string& text) {
  std::vector<NamedBudget> out;
  for (const std::string& part : parse_list(option, text))
    out.push_back(parse_budget(option, part));
  return out;
}

void check_cache_names(const std::string& option, const std::vector<std::string>& names) {
  std::vector<std::string> known = cache::policy_names();
  known.emplace_back("tiered");
  known.insert(known.end(), cache::merge_names().begin(), cache::merge_names().end());
  for (const std::string& name : names) {
    if (std::find(known.begin(), known.end(), name) != known.end()) continue;
    const std::string meant = nearest(name, known);
    const std::string advice = meant.empty() ? "" : fmt::format("did you mean {}? ", meant);
    throw ArgumentError(fmt::format("{} names '{}'; {}in this version: {}", option, name, advice,
                                    fmt::join(known, ", ")));
  }
}

bool has_budget(const std::string& cache) { return cache != "full" && !cache.starts_with("int"); }

eval::Candidate make_candidate(const model::Model& model, const std::string& cache,
                               const NamedBudget& budget, DType kv) {
  if (cache == "tiered") {
    cache::TieredSpec spec;
    spec.budget = budget.search ? *budget.search : search_budget(budget.budget);
    return {cache, budget.text, [&model, kv, spec](std::int64_t, std::int64_t capacity) {
              return std::make_unique<cache::TieredCache>(model.paged_spec(kv).layers, spec,
                                                          capacity, kv);
            }};
  }
  const bool bounded = has_budget(cache);
  QUIRE_CHECK(!bounded || !budget.search, "--budget ", budget.text, ": ", cache,
              " takes N or N% tokens; only tiered has such a budget");
  const auto make = [&model, cache, kv, bounded, budget = budget.budget](std::int64_t document,
                                                                         std::int64_t capacity) {
    // The tokens that a percentage means are known here: a budget under the floor of its policy is
    // refused now, not when the document was read.
    cache::Budget tokens;
    if (bounded) tokens.tokens = budget.of(document);
    return cache::make_policy_cache(cache, tokens, model.paged_spec(kv).layers, capacity, kv);
  };
  return {cache, bounded ? budget.text : "", make};
}

std::vector<eval::Candidate> make_candidates(const model::Model& model,
                                             const std::vector<std::string>& caches,
                                             const std::vector<NamedBudget>& budgets, DType kv) {
  std::vector<eval::Candidate> out;
  for (const std::string& cache : caches) {
    for (const NamedBudget& budget : budgets) {
      out.push_back(make_candidate(model, cache, budget, kv));
      if (!has_budget(cache)) break;
    }
  }
  return out;
}

}  // namespace quire::cli

#include "cli/tiered_session.h"

#include "cli/common.h"
#include "cli/number.h"
#include "cli/paged_session.h"
#include "quire/base/error.h"

namespace quire::cli {

std::optional<cache::SearchBudget> parse_search_budget(const std::string& option,
                                                       const std::string& text) {
  const std::size_t colon = text.find(':');
  if (colon == std::string::npos) return std::nullopt;
  const std::string form = text.substr(0, colon);
  QUIRE_CHECK(form == "mass" || form == "read", option, " is '", text,
              "'; it may be N, N%, mass:P or read:P");
  std::string_view number = std::string_view(text).substr(colon + 1);
  const bool percent = number.ends_with('%');
  if (percent) number.remove_suffix(1);
  const double share =
      parse_number(option, number, {0, percent ? 100.0 : 1.0, true}) / (percent ? 100 : 1);
  cache::SearchBudget out;
  (form == "mass" ? out.mass : out.read) = share;
  return out;
}

cache::SearchBudget search_budget(const cache::Budget& budget) {
  cache::SearchBudget out;
  if (budget.tokens >= 0) {
    out.tokens = budget.tokens;
  } else {
    out.fraction = budget.fraction;
  }
  return out;
}

cache::Budget budget_of(const CacheChoice& choice) {
  if (choice.budget) return {.tokens = *choice.budget};
  return {.fraction = choice.budget_share.value_or(1)};
}

cache::TieredSpec tiered_spec(const CacheChoice& choice) {
  cache::TieredSpec spec;
  if (choice.budget || choice.budget_share) spec.budget = search_budget(budget_of(choice));
  if (choice.budget_form) spec.budget = *parse_search_budget("--budget", *choice.budget_form);
  spec.memory = memory_limit(choice.memory);
  return spec;
}

Json tiered_json(const cache::TieredCache& cache, DType kv) {
  const cache::CacheReport report = cache.report();
  const cache::TieredFigures figures = cache.figures();
  Json out, zones;
  out["policy"] = "tiered";
  out["type"] = kv_name(kv);
  out["tokens"] = report.tokens;
  zones["sink"] = figures.zones.sink;
  zones["context"] = figures.zones.context;
  zones["staging"] = figures.zones.staging;
  zones["recent"] = figures.zones.recent;
  out["zones"] = std::move(zones);
  out["clusters"] = figures.clusters;
  out["selected"] = figures.selected;
  out["estimated"] = figures.estimated;
  out["mass"] = report.mass;
  out["bytes_read"] = report.bytes_read;
  out["bytes_read_index"] = figures.bytes_index;
  out["bytes_stored"] = report.bytes_stored;
  if (const auto counts = cache.tier_counts())
    out["tier"] = tier_json(*counts, cache.spec().memory.ram_bytes);
  return out;
}

}  // namespace quire::cli

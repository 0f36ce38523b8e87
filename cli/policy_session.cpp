#include "cli/policy_session.h"

#include <utility>

#include "cli/tiered_session.h"
#include "quire/base/error.h"
#include "quire/cache/merged.h"
#include "quire/cache/policies/policies.h"

namespace quire::cli {
namespace {

cache::Budget budget_of(const CacheChoice& choice) {
  if (choice.budget) return {.tokens = *choice.budget};
  return {.fraction = choice.budget_share.value_or(1)};
}

constexpr const char* kTiered = "tiered";

cache::TieredSpec tiered_spec(const CacheChoice& choice) {
  cache::TieredSpec spec;
  if (choice.budget || choice.budget_share) spec.budget = search_budget(budget_of(choice));
  if (choice.budget_form) spec.budget = *parse_search_budget("--budget", *choice.budget_form);
  spec.memory = memory_limit(choice.memory);
  return spec;
}

}  // namespace

std::vector<std::string> cache_kinds() {
  std::vector<std::string> out{"full", "paged", kTiered};
  // The others are full with another --kv.
  for (const std::string& name : cache::policy_names())
    if (!cache::keeps_everything(name)) out.push_back(name);
  out.insert(out.end(), cache::merge_names().begin(), cache::merge_names().end());
  return out;
}

bool is_policy(const CacheChoice& choice) {
  return !choice.kind.empty() && choice.kind != "full" && choice.kind != "paged";
}

void check_policy(const CacheChoice& choice) {
  QUIRE_CHECK(!choice.save && !choice.load, "--cache ", choice.kind,
              " is not made of pages; leave it out with --save-cache and --load-cache");
  QUIRE_CHECK(choice.kind == kTiered || (!choice.memory.ram && !choice.memory.disk), "--cache ",
              choice.kind, " has no slow tier; leave --cache-ram and --cache-disk out");
  if (choice.kind == kTiered) return static_cast<void>(tiered_spec(choice));
  QUIRE_CHECK(!choice.budget_form, "--budget ", choice.budget_form.value_or(""),
              ": only --cache tiered has such a budget");
  QUIRE_CHECK(choice.budget || choice.budget_share, "--cache ", choice.kind,
              " needs a --budget: N tokens, or N% of the documents");
  const bool merges = cache::is_merge_name(choice.kind);
  const std::int64_t floor =
      merges ? cache::MergedCache::floor_tokens(cache::merge_options(choice.kind))
             : cache::make_policy(choice.kind)->floor_tokens();
  QUIRE_CHECK(!choice.budget || *choice.budget >= floor, "--budget is ", choice.budget.value_or(0),
              "; ", choice.kind, " needs at least ", floor, " tokens");
}

generate::Session make_policy_session(const model::Model& model,
                                      std::shared_ptr<const text::Tokenizer> tokenizer,
                                      const CacheChoice& choice, DType kv, std::int64_t context,
                                      std::int64_t tokens) {
  if (choice.kind == kTiered) {
    const cache::TieredSpec spec = tiered_spec(choice);
    if (spec.memory.ram_bytes > 0) context = tokens;
    return {model, std::move(tokenizer),
            std::make_unique<cache::TieredCache>(model.paged_spec(kv).layers, spec, context, kv),
            model.file().stop_ids()};
  }
  return {model, std::move(tokenizer),
          cache::make_policy_cache(choice.kind, budget_of(choice), model.paged_spec(kv).layers,
                                   context, kv),
          model.file().stop_ids()};
}

Json policy_json(generate::Session& session, const std::string& kind, DType kv) {
  if (const auto* tiered = dynamic_cast<const cache::TieredCache*>(&session.cache()))
    return tiered_json(*tiered, kv);
  const cache::CacheReport report = session.cache().report();
  Json out;
  out["policy"] = kind;
  out["type"] = kv_name(kv);
  out["tokens"] = report.tokens;
  const auto bounds = [&](const auto& cache) {
    out["context_tokens"] = cache.context();
    out["budget_tokens"] = cache.budget_tokens();
  };
  if (cache::is_merge_name(kind)) {
    bounds(dynamic_cast<const cache::MergedCache&>(session.cache()));
    out["mass"] = report.mass;
  } else {
    bounds(dynamic_cast<const cache::PolicyCache&>(session.cache()));
  }
  out["bytes_read"] = report.bytes_read;
  out["bytes_stored"] = report.bytes_stored;
  return out;
}

}  // namespace quire::cli
